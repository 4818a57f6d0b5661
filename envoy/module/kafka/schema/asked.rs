//! What a request asks for, as the walk finds it.

use super::super::few::Few;

pub(super) const TOPIC_RESOURCE: i8 = 2; // of a config resource

/// A topic that a request names. `span` is where the whole element stands in the frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic<'a> {
    pub name: Option<&'a [u8]>,
    pub id: Option<[u8; 16]>,
    pub span: (usize, usize),
    pub(super) item: usize,
    pub(super) parts: (usize, usize),
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
    pub(super) parts: Few<i32, 4>,
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
    pub(super) missing: usize,
    /// How many fields of bytes there were, and the last of them.
    pub(super) blobs: usize,
    pub(super) blob: Blob,
    pub(super) topics_missing: usize,
    pub(super) last_parts_seen: bool,
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
