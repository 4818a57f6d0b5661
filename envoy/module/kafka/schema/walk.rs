//! Walking through a request: the fields that the table gives an API, made ready once for each version.

use super::super::wire::{Reader, Trouble};
use super::asked::{Asked, Blob, Item, Topic};
use super::{Field, Kind, Many};

/// How to walk through the requests of one version.
#[derive(Debug)]
pub struct Walk {
    flexible: bool,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    /// So many bytes that say nothing.
    Skip(usize),
    Text,
    Bytes,
    Name,
    Id,
    /// The name (or id) of a topic has come; what comes behind it names no further topic.
    Named,
    Index,
    Key,
    ItemKind,
    Acks,
    Session,
    Epoch,
    Transaction,
    Pattern,
    Array {
        many: Many,
        structs: bool,
        steps: Vec<Step>,
    },
    /// What no request has.
    Never,
}

impl Walk {
    pub(super) fn new(fields: &[Field], version: i16, flexible: bool) -> Walk {
        let steps = steps(fields, version);
        Walk { flexible, steps }
    }

    /// From the end of a request's header to that of its last field. `asked` keeps what was found also when the frame is
    /// short.
    pub fn go<'a>(&self, reader: &mut Reader<'a>, asked: &mut Asked<'a>) -> Result<(), Trouble> {
        self.steps(&self.steps, reader, asked)?;
        reader.tags(self.flexible)
    }

    fn steps<'a>(&self, steps: &[Step], reader: &mut Reader<'a>, asked: &mut Asked<'a>) -> Result<(), Trouble> {
        for step in steps {
            match step {
                Step::Skip(size) => reader.skip(*size)?,
                Step::Text => {
                    let length = reader.length(self.flexible, false)?.unwrap_or(0);
                    reader.skip(length)?
                }
                Step::Bytes => {
                    let length_at = reader.at();
                    let length = reader.length(self.flexible, true)?.unwrap_or(0);
                    reader.skip(length)?;
                    asked.blobs += 1;
                    asked.blob = Blob {
                        length_at,
                        end: reader.at(),
                    };
                }
                Step::Name => {
                    let name = reader.string(self.flexible)?;
                    if let Some(topic) = asked.topics.last_mut() {
                        topic.name = name;
                    }
                }
                Step::Id => {
                    let id = reader.uuid()?;
                    if let Some(topic) = asked.topics.last_mut() {
                        topic.id = if id == [0; 16] { None } else { Some(id) };
                    }
                }
                Step::Named => asked.topics_missing = asked.topics_missing.saturating_sub(1),
                Step::Index => {
                    asked.parts.push(reader.i32()?);
                    asked.missing = asked.missing.saturating_sub(1);
                    let parts = asked.parts.len();
                    if let Some(topic) = asked.topics.last_mut() {
                        topic.parts.1 = parts;
                    }
                }
                Step::Key => {
                    let key = reader.string(self.flexible)?;
                    if let Some(item) = asked.items.last_mut() {
                        item.key = key;
                    }
                }
                Step::ItemKind => {
                    let kind = reader.i8()?;
                    match asked.items.last_mut() {
                        Some(item) => item.kind = kind,
                        None => asked.kind = kind,
                    }
                }
                Step::Acks => asked.acks = Some(reader.i16()?),
                Step::Session => asked.session = reader.i32()?,
                Step::Epoch => {
                    asked.epoch_at = Some(reader.at());
                    reader.i32()?;
                }
                Step::Transaction => asked.transaction = reader.string(self.flexible)?.is_some(),
                Step::Pattern => asked.everything |= reader.string(self.flexible)?.map_or(false, |it| !it.is_empty()),
                Step::Array { many, structs, steps } => self.array(*many, *structs, steps, reader, asked)?,
                Step::Never => return Err(Trouble::Malformed),
            }
        }
        Ok(())
    }

    fn array<'a>(
        &self,
        many: Many,
        structs: bool,
        steps: &[Step],
        reader: &mut Reader<'a>,
        asked: &mut Asked<'a>,
    ) -> Result<(), Trouble> {
        let start = reader.at();
        let length = reader.length(self.flexible, true)?;
        let count = length.unwrap_or(0);
        // Every element has a byte at least.
        if count > reader.left() {
            return Err(Trouble::Malformed);
        }
        match many {
            Many::Topics { null_is_all } => {
                asked.topics_at = (start, reader.at(), reader.at());
                asked.topics_missing = count;
                asked.everything |= length.is_none() && null_is_all;
            }
            Many::Parts => {
                asked.missing += count;
                asked.last_parts_seen = asked.topics_missing == 0;
            }
            Many::Items | Many::List => {}
        }
        for _ in 0..count {
            // A count may promise more than has come: nobody counts through what is not there.
            reader.take(0)?;
            let at = reader.at();
            match many {
                Many::Topics { .. } => {
                    let parts = asked.parts.len();
                    asked.topics.push(Topic {
                        name: None,
                        id: None,
                        span: (at, at),
                        item: asked.items.len(),
                        parts: (parts, parts),
                    });
                }
                Many::Items => asked.items.push(Item::default()),
                Many::Parts | Many::List => {}
            }
            self.steps(steps, reader, asked)?;
            if structs {
                reader.tags(self.flexible)?;
            }
            if let Many::Topics { .. } = many {
                if let Some(topic) = asked.topics.last_mut() {
                    topic.span.1 = reader.at();
                }
                asked.topics_at.2 = reader.at();
            }
        }
        Ok(())
    }
}

/// The fields that a version has, those together that are only gone over.
fn steps(fields: &[Field], version: i16) -> Vec<Step> {
    let mut made = Vec::new();
    for field in fields.iter().filter(|field| field.is_in(version)) {
        let step = step(&field.kind, version);
        match (made.last_mut(), step) {
            (Some(Step::Skip(before)), Step::Skip(size)) => *before += size,
            (_, step) => made.push(step),
        }
    }
    made
}

fn step(kind: &Kind, version: i16) -> Step {
    match kind {
        Kind::Number(size, _) => Step::Skip(*size),
        Kind::Text(_) => Step::Text,
        Kind::Bytes(_) => Step::Bytes,
        Kind::Name => Step::Name,
        Kind::Id => Step::Id,
        Kind::Index => Step::Index,
        Kind::Key => Step::Key,
        Kind::ItemKind => Step::ItemKind,
        Kind::Acks => Step::Acks,
        Kind::Session => Step::Session,
        Kind::Epoch => Step::Epoch,
        Kind::Transaction => Step::Transaction,
        Kind::Pattern => Step::Pattern,
        Kind::Array { many, structs, fields } => {
            let mut steps = steps(fields, version);
            if let Many::Topics { .. } = many {
                // It stands before the first array.
                let named = steps.iter().position(|step| matches!(step, Step::Array { .. }));
                steps.insert(named.unwrap_or(steps.len()), Step::Named);
            }
            Step::Array {
                many: *many,
                structs: *structs,
                steps,
            }
        }
        Kind::Empty(_) | Kind::NoStruct | Kind::Error => Step::Never,
    }
}
