//! The table of `apis.rs`: read once, and its language.

use std::sync::Mutex;

use super::super::apis;
use super::walk::Walk;
use super::{About, Api, Field, Kind, Many};

pub const PRODUCE: i16 = 0;
pub const FETCH: i16 = 1;
pub const METADATA: i16 = 3;
pub const API_VERSIONS: i16 = 18;

/// The table of `apis.rs`, read.
pub struct Tables {
    pub apis: Vec<Api>,
    pub metadata_response: Api,
}

static TABLES: Mutex<Option<&'static Tables>> = Mutex::new(None);

impl Tables {
    /// Read once, and the same for all connections.
    pub fn shared() -> Result<&'static Tables, String> {
        let mut shared = TABLES.lock().map_err(|_| "the table of APIs cannot be read")?;
        match *shared {
            Some(tables) => Ok(tables),
            None => Ok(shared.insert(Box::leak(Box::new(Tables::read()?)))),
        }
    }

    fn read() -> Result<Tables, String> {
        let mut other = read_table(apis::METADATA_RESPONSE)?;
        Ok(Tables {
            apis: read_table(apis::APIS)?,
            metadata_response: other.pop().ok_or("no Metadata response")?,
        })
    }

    pub fn api(&self, key: i16) -> Option<&Api> {
        self.apis.iter().find(|api| api.key == key)
    }
}

/// Reads the table. Errors are ours, and a test finds them.
fn read_table(text: &str) -> Result<Vec<Api>, String> {
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
