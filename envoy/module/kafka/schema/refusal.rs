//! The response that refuses a request, each topic and partition of it by name.

use super::super::wire::{begin_frame, end_frame, put_length, put_string, put_varint};
use super::asked::{Asked, Item, Topic, TOPIC_RESOURCE};
use super::{About, Api, Field, Kind, Many};

pub const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
const GROUP_AUTHORIZATION_FAILED: i16 = 30;
const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
pub const UNKNOWN_TOPIC_ID: i16 = 100;

const GROUP_RESOURCE: i8 = 32;
const TRANSACTION_COORDINATOR: i8 = 1;

impl Api {
    /// The response that refuses all that was asked. `unknown` tells topics by id that nobody knows.
    pub fn refusal(&self, version: i16, correlation: i32, asked: &Asked, unknown: impl Fn(&Topic) -> bool) -> Vec<u8> {
        let by_topic = !asked.topics.is_empty() && tells_topics(&self.response);
        let code = if by_topic { 0 } else { self.code_of(asked) };
        self.respond(version, correlation, asked, code, &unknown)
    }

    /// A response that says nothing but an error, which is not about what was asked.
    pub fn failure(&self, version: i16, correlation: i32, code: i16) -> Vec<u8> {
        self.respond(version, correlation, &Asked::default(), code, &|_| false)
    }

    /// The code that a refusal says, of its topics or as a whole.
    pub fn code_of(&self, asked: &Asked) -> i16 {
        if asked.topics.is_empty() {
            self.code(asked)
        } else {
            TOPIC_AUTHORIZATION_FAILED
        }
    }

    fn respond(
        &self,
        version: i16,
        correlation: i32,
        asked: &Asked,
        code: i16,
        unknown: &dyn Fn(&Topic) -> bool,
    ) -> Vec<u8> {
        let flexible = self.is_flexible(version);
        let mut out = begin_frame(correlation);
        // ApiVersions has the old header whatever its version (KIP-511).
        if flexible && self.key != 18 {
            out.push(0);
        }
        let refusal = Refusal {
            api: self,
            version,
            flexible,
            asked,
            code,
            unknown,
        };
        refusal.fields(&self.response, Place::Top, &mut out);
        if flexible {
            out.push(0);
        }
        end_frame(out)
    }

    /// The code of a refusal that names no topic.
    fn code(&self, asked: &Asked) -> i16 {
        match self.about {
            About::Topic => TOPIC_AUTHORIZATION_FAILED,
            About::Group => GROUP_AUTHORIZATION_FAILED,
            About::Coordinator if asked.kind == TRANSACTION_COORDINATOR => TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            About::Coordinator => GROUP_AUTHORIZATION_FAILED,
            About::Transaction if asked.transaction || self.key == 65 => TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            About::Transaction | About::Resource | About::Cluster => CLUSTER_AUTHORIZATION_FAILED,
        }
    }
}

/// True when a response names topics.
fn tells_topics(fields: &[Field]) -> bool {
    fields.iter().any(|field| match &field.kind {
        Kind::Array { many, fields, .. } => matches!(many, Many::Topics { .. }) || tells_topics(fields),
        _ => false,
    })
}

#[derive(Clone, Copy)]
enum Place {
    Top,
    Item(usize),
    Topic(usize),
    Part(usize, i32),
}

struct Refusal<'r, 'a> {
    api: &'r Api,
    version: i16,
    flexible: bool,
    asked: &'r Asked<'a>,
    code: i16,
    unknown: &'r dyn Fn(&Topic) -> bool,
}

impl Refusal<'_, '_> {
    fn fields(&self, fields: &[Field], place: Place, out: &mut Vec<u8>) {
        for field in fields {
            if !field.is_in(self.version) {
                continue;
            }
            match &field.kind {
                Kind::Number(size, value) => {
                    let bytes = value.to_be_bytes();
                    out.extend_from_slice(bytes.get(8 - (*size).min(8)..).unwrap_or(&[]));
                    out.resize(out.len() + size.saturating_sub(8), 0);
                }
                Kind::Text(null) => put_string(out, if *null { None } else { Some(b"") }, self.flexible),
                Kind::Bytes(null) | Kind::Empty(null) => {
                    put_length(out, if *null { None } else { Some(0) }, self.flexible, true)
                }
                Kind::NoStruct => out.push(0xff),
                Kind::Error => out.extend_from_slice(&self.error(place).to_be_bytes()),
                Kind::Name => {
                    let topic = self.topic(place);
                    let name = topic.and_then(|topic| topic.name);
                    // A topic that is asked for by id has no name (null) where a response can say so.
                    let null = topic.map_or(false, |topic| topic.id.is_some()) && self.flexible;
                    put_string(out, if null { name } else { Some(name.unwrap_or(b"")) }, self.flexible);
                }
                Kind::Id => {
                    let id = self.topic(place).and_then(|topic| topic.id);
                    out.extend_from_slice(&id.unwrap_or([0; 16]));
                }
                Kind::Index => {
                    let index = if let Place::Part(_, index) = place { index } else { 0 };
                    out.extend_from_slice(&index.to_be_bytes());
                }
                Kind::Key => put_string(
                    out,
                    Some(self.item(place).and_then(|it| it.key).unwrap_or(b"")),
                    self.flexible,
                ),
                Kind::ItemKind => out.push(self.item(place).map_or(0, |item| item.kind) as u8),
                Kind::Array { many, structs, fields } => {
                    let places = self.places(*many, place);
                    put_length(out, Some(places.len()), self.flexible, true);
                    for place in places {
                        self.fields(fields, place, out);
                        if *structs && self.flexible {
                            put_varint(out, 0);
                        }
                    }
                }
                Kind::Acks | Kind::Session | Kind::Epoch | Kind::Transaction | Kind::Pattern => {}
            }
        }
    }

    fn places(&self, many: Many, place: Place) -> Vec<Place> {
        match (many, place) {
            (Many::Topics { .. }, Place::Item(item)) => (0..self.asked.topics.len())
                .filter(|at| self.asked.topics.get(*at).map_or(false, |topic| topic.item == item + 1))
                .map(Place::Topic)
                .collect(),
            (Many::Topics { .. }, _) => (0..self.asked.topics.len()).map(Place::Topic).collect(),
            (Many::Items, _) => (0..self.asked.items.len()).map(Place::Item).collect(),
            (Many::Parts, Place::Topic(at)) => {
                let (first, last) = self.asked.topics.get(at).map_or((0, 0), |topic| topic.parts);
                let indexes = self.asked.parts.get(first..last).unwrap_or(&[]);
                indexes.iter().map(|index| Place::Part(at, *index)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn topic(&self, place: Place) -> Option<&Topic<'_>> {
        match place {
            Place::Topic(at) | Place::Part(at, _) => self.asked.topics.get(at),
            _ => None,
        }
    }

    fn item(&self, place: Place) -> Option<&Item<'_>> {
        match place {
            Place::Item(at) => self.asked.items.get(at),
            _ => None,
        }
    }

    fn error(&self, place: Place) -> i16 {
        match place {
            Place::Top => self.code,
            Place::Item(at) => {
                if self.asked.topics.iter().any(|topic| topic.item == at + 1) {
                    return 0;
                }
                match self.item(place).map_or(0, |item| item.kind) {
                    TOPIC_RESOURCE if self.api.about == About::Resource => TOPIC_AUTHORIZATION_FAILED,
                    GROUP_RESOURCE if self.api.about == About::Resource => GROUP_AUTHORIZATION_FAILED,
                    _ => self.api.code(self.asked),
                }
            }
            Place::Topic(_) | Place::Part(..) => {
                if self.topic(place).map_or(false, |topic| (self.unknown)(topic)) {
                    UNKNOWN_TOPIC_ID
                } else {
                    TOPIC_AUTHORIZATION_FAILED
                }
            }
        }
    }
}
