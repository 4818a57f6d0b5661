//! What an API's messages look like: the fields that `apis.rs` gives it, by version.
//!
//! `table` reads them, `walk` goes through a request by them and finds what it is `asked`, `refusal` writes the response
//! that says no.

mod asked;
mod refusal;
#[cfg(test)]
mod sample;
mod table;
mod walk;

pub use self::asked::{Asked, Topic};
pub use self::refusal::{TOPIC_AUTHORIZATION_FAILED, UNKNOWN_TOPIC_ID};
pub use self::table::{Tables, API_VERSIONS, FETCH, METADATA, PRODUCE};
use self::walk::Walk;
use super::wire::{Reader, Trouble};

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
}
