//! The language of `apis.rs`, read once, and what is done with it: walking a request and writing a refusal.

#[cfg(test)]
#[path = "schema_sample.rs"]
mod sample;
#[path = "schema_walk.rs"]
mod walk;

use self::walk::Walk;
use super::few::Few;
use super::wire::{begin_frame, end_frame, put_length, put_string, put_varint, Reader, Trouble};

/// What an API is about, which gives the error code of a refusal that has nothing to do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    Topic,
    Group,
    Coordinator,
    Transaction,
    Resource,
    Cluster,
}

pub const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
pub const GROUP_AUTHORIZATION_FAILED: i16 = 30;
pub const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
pub const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
pub const UNKNOWN_TOPIC_ID: i16 = 100;

const TOPIC_RESOURCE: i8 = 2; // of a config resource
const GROUP_RESOURCE: i8 = 32;
const TRANSACTION_COORDINATOR: i8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Many {
    Topics { null_is_all: bool },
    Parts,
    Items,
    List,
}

#[derive(Debug)]
enum Kind {
    /// So many bytes; in a response the value.
    Number(usize, i64),
    Text(bool),
    Bytes(bool),
    /// An array of nothing, in a response.
    Empty(bool),
    /// A struct that is null.
    NoStruct,
    Name,
    Id,
    Index,
    Key,
    ItemKind,
    Acks,
    Session,
    Epoch,
    Transaction,
    Pattern,
    Error,
    Array {
        many: Many,
        structs: bool,
        fields: Vec<Field>,
    },
}

#[derive(Debug)]
struct Field {
    kind: Kind,
    first: i16,
    last: i16,
}

/// One API: its versions and its two messages.
#[derive(Debug)]
pub struct Api {
    pub key: i16,
    pub name: String,
    pub first: i16,
    pub last: i16,
    flexible: i16,
    pub about: About,
    request: Vec<Field>,
    response: Vec<Field>,
    /// One for each version, from `first` on.
    walks: Vec<Walk>,
}

impl Field {
    fn is_in(&self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }
}

/// A topic that a request names. `span` is where the whole element stands in the frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic<'a> {
    pub name: Option<&'a [u8]>,
    pub id: Option<[u8; 16]>,
    pub span: (usize, usize),
    item: usize,
    parts: (usize, usize),
}

/// A group, coordinator key, config resource or the like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item<'a> {
    pub kind: i8,
    pub key: Option<&'a [u8]>,
}

/// A field of bytes, such as the records of a partition: where its length stands, and where it ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blob {
    pub length_at: usize,
    pub end: usize,
}

/// What a request asks for.
#[derive(Debug, Default)]
pub struct Asked<'a> {
    pub topics: Few<Topic<'a>, 2>,
    pub items: Vec<Item<'a>>,
    parts: Few<i32, 4>,
    /// It asks for every topic there is, or for those that fit a pattern.
    pub everything: bool,
    pub acks: Option<i16>,
    /// The session of a Fetch, and where its epoch stands in the frame.
    pub session: i32,
    pub epoch_at: Option<usize>,
    pub kind: i8,
    pub transaction: bool,
    /// Where the array of topics stands: its length, its first element, what comes behind it.
    pub topics_at: (usize, usize, usize),
    /// Elements that are announced and have not come, while a frame is read that is not whole.
    missing: usize,
    /// How many fields of bytes there were, and the last of them.
    blobs: usize,
    blob: Blob,
    topics_missing: usize,
    last_parts_seen: bool,
}

impl Asked<'_> {
    /// True when every topic's name has come, of a Produce that is not whole.
    pub fn names_whole(&self) -> bool {
        self.topics_missing == 0 && self.topics_at.1 != 0
    }

    /// True when every partition's number has come as well.
    pub fn shape_whole(&self) -> bool {
        self.names_whole() && self.missing == 0 && (self.topics.is_empty() || self.last_parts_seen)
    }

    /// The records of a Produce to a single partition; every name and number has come.
    pub fn only_records(&self) -> Option<Blob> {
        (self.blobs == 1 && self.shape_whole()).then(|| self.blob)
    }
}

impl Api {
    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible
    }

    pub fn knows(&self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }

    /// Walk a request from the end of its header on. `asked` keeps what was found also when the frame is short.
    pub fn read<'a>(&self, version: i16, reader: &mut Reader<'a>, asked: &mut Asked<'a>) -> Result<(), Trouble> {
        self.read_begin(version, reader, asked)?;
        if reader.left() > 0 {
            return Err(Trouble::Malformed);
        }
        Ok(())
    }

    /// The same where something may stand behind it that nobody reads.
    pub fn read_begin<'a>(&self, version: i16, reader: &mut Reader<'a>, asked: &mut Asked<'a>) -> Result<(), Trouble> {
        let number = usize::try_from(i32::from(version) - i32::from(self.first)).map_err(|_| Trouble::Malformed)?;
        self.walks.get(number).ok_or(Trouble::Malformed)?.go(reader, asked)?;
        // Bytes that were gone over and have not come.
        reader.take(0).map(|_| ())
    }

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

impl Item<'_> {
    /// The topic that a config resource is about.
    pub fn topic(&self) -> Option<&[u8]> {
        if self.kind == TOPIC_RESOURCE {
            self.key
        } else {
            None
        }
    }
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

/// Reads the table. Errors are ours, and a test finds them.
pub fn read_table(text: &str) -> Result<Vec<Api>, String> {
    let mut apis: Vec<Api> = Vec::new();
    let mut response = false;
    for line in text.lines() {
        let line = line.trim();
        let mut words = line.split_whitespace();
        match words.next() {
            None => {}
            Some(first) if first.parse::<i16>().is_ok() => {
                let rest: Vec<&str> = words.collect();
                let [name, from, to, flexible, about] = match <[&str; 5]>::try_from(rest) {
                    Ok(rest) => rest,
                    Err(_) => return Err(format!("{}: not key name first last flexible about", line)),
                };
                let number = |word: &str| {
                    word.parse::<i16>()
                        .map_err(|_| format!("{}: {} is no number", line, word))
                };
                apis.push(Api {
                    key: number(first)?,
                    name: name.to_string(),
                    first: number(from)?,
                    last: number(to)?,
                    flexible: if flexible == "-" { i16::MAX } else { number(flexible)? },
                    about: match about {
                        "topic" => About::Topic,
                        "group" => About::Group,
                        "coordinator" => About::Coordinator,
                        "transaction" => About::Transaction,
                        "resource" => About::Resource,
                        "cluster" => About::Cluster,
                        _ => return Err(format!("{}: about {}", line, about)),
                    },
                    request: Vec::new(),
                    response: Vec::new(),
                    walks: Vec::new(),
                });
            }
            Some(first) => {
                let rest = match first {
                    ">" | "<" => {
                        response = first == "<";
                        line.get(1..).unwrap_or("")
                    }
                    _ => line,
                };
                let api = apis.last_mut().ok_or("a message before its API")?;
                let mut parser = Parser {
                    text: rest.as_bytes(),
                    at: 0,
                };
                let fields = parser.fields()?;
                if parser.at < parser.text.len() {
                    return Err(format!("{}: ends in the middle", line));
                }
                (if response { &mut api.response } else { &mut api.request }).extend(fields);
            }
        }
    }
    for api in &mut apis {
        let walk = |version| Walk::new(&api.request, version, version >= api.flexible);
        api.walks = (api.first..=api.last).map(walk).collect();
    }
    Ok(apis)
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    fn word(&mut self, stops: &[u8]) -> String {
        let start = self.at;
        while self.peek() != 0 && !stops.contains(&self.peek()) {
            self.at += 1;
        }
        String::from_utf8_lossy(self.text.get(start..self.at).unwrap_or(&[])).into_owned()
    }

    fn fields(&mut self) -> Result<Vec<Field>, String> {
        let mut fields = Vec::new();
        loop {
            while self.peek() == b' ' {
                self.at += 1;
            }
            if matches!(self.peek(), 0 | b']' | b')') {
                return Ok(fields);
            }
            fields.push(self.field()?);
        }
    }

    fn field(&mut self) -> Result<Field, String> {
        let word = self.word(b" @[(])");
        let kind = if matches!(self.peek(), b'[' | b'(') {
            let structs = self.peek() == b'[';
            self.at += 1;
            let fields = self.fields()?;
            if self.peek() != if structs { b']' } else { b')' } {
                return Err(format!("{}: not closed", word));
            }
            self.at += 1;
            let many = match word.as_str() {
                "topics" => Many::Topics { null_is_all: false },
                "topics*" => Many::Topics { null_is_all: true },
                "parts" => Many::Parts,
                "items" => Many::Items,
                "list" => Many::List,
                _ => return Err(format!("{}: no array of that kind", word)),
            };
            Kind::Array { many, structs, fields }
        } else {
            kind_of(&word)?
        };
        let (mut first, mut last) = (0, i16::MAX);
        if self.peek() == b'@' {
            self.at += 1;
            let range = self.word(b" ])");
            let number = |text: &str| text.parse::<i16>().map_err(|_| format!("{}: not versions", range));
            if let Some(from) = range.strip_suffix('+') {
                first = number(from)?;
            } else if let Some((from, to)) = range.split_once('-') {
                first = number(from)?;
                last = number(to)?;
            } else {
                first = number(&range)?;
                last = first;
            }
        }
        Ok(Field { kind, first, last })
    }
}

fn kind_of(word: &str) -> Result<Kind, String> {
    let (name, value) = word.split_once('=').unwrap_or((word, "0"));
    let value: i64 = value.parse().map_err(|_| format!("{}: not a value", word))?;
    Ok(match name {
        "bool" | "i8" => Kind::Number(1, value),
        "i16" => Kind::Number(2, value),
        "i32" => Kind::Number(4, value),
        "i64" => Kind::Number(8, value),
        "uuid" => Kind::Number(16, 0),
        "string" => Kind::Text(false),
        "string?" => Kind::Text(true),
        "bytes" => Kind::Bytes(false),
        "bytes?" => Kind::Bytes(true),
        "array" => Kind::Empty(false),
        "array?" => Kind::Empty(true),
        "struct?" => Kind::NoStruct,
        "name" => Kind::Name,
        "id" => Kind::Id,
        "index" => Kind::Index,
        "key" => Kind::Key,
        "kind" => Kind::ItemKind,
        "acks" => Kind::Acks,
        "session" => Kind::Session,
        "epoch" => Kind::Epoch,
        "txn" => Kind::Transaction,
        "regex" => Kind::Pattern,
        "error" => Kind::Error,
        _ => return Err(format!("{}: no such type", word)),
    })
}
