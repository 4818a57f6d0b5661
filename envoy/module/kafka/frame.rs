//! A request's frame: its length, and the header that every version has (https://kafka.apache.org/protocol#protocol_messages).

use super::schema::Api;
use super::wire::{Reader, Trouble};

/// Brokers take 100 MiB (socket.request.max.bytes) unless told otherwise.
pub const LARGEST: usize = 100 << 20;
pub const KEY: usize = 4; // where it stands, and the version behind it
pub const CORRELATION: usize = 8;
pub const CLIENT: usize = 12;
const SMALLEST: usize = 10; // key, version, correlation id, length of the client's id
const LONGEST_CLIENT: usize = 32 << 10;

/// What every request begins with.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// With its length prefix.
    pub total: usize,
    pub key: i16,
    pub version: i16,
    pub correlation: i32,
    pub client: &'a [u8],
    after_client: usize,
}

/// What can be said of the bytes so far.
pub enum Seen<'a> {
    Frame(Frame<'a>),
    More,
    Bad(&'static str),
}

pub fn look(data: &[u8]) -> Seen<'_> {
    if data.len() < KEY {
        return Seen::More;
    }
    let total = match total(data) {
        Some(total) => total,
        None => return Seen::Bad("its length is none of a request"),
    };
    match header(data, total) {
        Ok(frame) if frame.client.len() <= LONGEST_CLIENT => Seen::Frame(frame),
        Ok(_) => Seen::Bad("its client id is too long"),
        Err(Trouble::Short) => Seen::More,
        Err(Trouble::Malformed) => Seen::Bad("its header is malformed"),
    }
}

/// The length of the frame that begins here, with its prefix, if that has come and is one of a request.
#[inline]
pub fn total(data: &[u8]) -> Option<usize> {
    let length = usize::try_from(Reader::new(data, KEY, 0).i32().ok()?).ok()?;
    (SMALLEST..=LARGEST).contains(&length).then(|| length + KEY)
}

fn header(data: &[u8], total: usize) -> Result<Frame<'_>, Trouble> {
    let mut reader = Reader::new(data, total, KEY);
    Ok(Frame {
        total,
        key: reader.i16()?,
        version: reader.i16()?,
        correlation: reader.i32()?,
        client: reader.string(false)?.unwrap_or(b""),
        after_client: reader.at(),
    })
}

impl<'a> Frame<'a> {
    /// A reader behind the header of this API's request.
    pub fn body(&self, api: &Api, data: &'a [u8]) -> Result<Reader<'a>, Trouble> {
        let mut reader = Reader::new(data, self.total, self.after_client);
        reader.tags(api.is_flexible(self.version))?;
        Ok(reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_no_request_has_are_bad_at_once() {
        for prefix in [i32::MAX, -1, 0, 1, 9, (100 << 20) + 1] {
            assert!(matches!(look(&prefix.to_be_bytes()), Seen::Bad(_)), "{}", prefix);
        }
        assert!(matches!(look(&[0, 0, 0]), Seen::More));
        assert!(matches!(look(&[0, 0, 0, 10]), Seen::More));
    }

    #[test]
    fn a_header_is_read() {
        let mut data = vec![0, 0, 0, 11, 0, 3, 0, 12, 0, 0, 0, 7, 0, 1, b'c'];
        match look(&data) {
            Seen::Frame(frame) => assert_eq!(
                (frame.key, frame.version, frame.correlation, frame.client, frame.total),
                (3, 12, 7, &b"c"[..], 15)
            ),
            _ => panic!(),
        }
        data[13] = 9;
        assert!(matches!(look(&data), Seen::Bad(_)));
    }
}
