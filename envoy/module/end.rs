//! One end of a connection, as the listener filter `identity` leaves it for every other filter: `SHARD:IDENTITY:in` for an
//! endpoint of this node, `SHARD:IDENTITY:out` for whoever is not. xds/compile/end.py says what each part is for.

use std::num::NonZeroU32;

/// The keys of the filter state.
pub const SOURCE: &str = "lockgate.source";
pub const DESTINATION: &str = "lockgate.destination";

const HERE: &str = ":in";
const ELSEWHERE: &str = ":out";
const ROOM: usize = 32; // for the longest, 25 bytes; a power of two, so that no index need be checked

/// The text, without an allocation: it is written from its end on.
pub struct EndText {
    text: [u8; ROOM],
    start: usize,
}

impl EndText {
    /// The end of an identity, whose policies are in the shard `identity % shards`; `here`: it is an endpoint of this node.
    pub fn of(identity: u32, here: bool, shards: NonZeroU32) -> EndText {
        let mut written = EndText {
            text: [0; ROOM],
            start: ROOM,
        };
        for letter in if here { HERE } else { ELSEWHERE }.bytes().rev() {
            written.put(letter);
        }
        written.put_number(identity);
        written.put(b':');
        written.put_number(identity % shards);
        written
    }

    pub fn text(&self) -> &[u8] {
        &self.text[self.start % ROOM..]
    }

    fn put(&mut self, letter: u8) {
        self.start -= 1;
        self.text[self.start % ROOM] = letter;
    }

    fn put_number(&mut self, mut number: u32) {
        loop {
            self.put(b'0' + (number % 10) as u8);
            number /= 10;
            if number == 0 {
                return;
            }
        }
    }
}

/// The identity that a text says, and whether it is an endpoint of this node. None of what is no such text.
pub fn read(text: &str) -> Option<(u32, bool)> {
    let (rest, here) = match (text.strip_suffix(HERE), text.strip_suffix(ELSEWHERE)) {
        (Some(rest), _) => (rest, true),
        (_, Some(rest)) => (rest, false),
        _ => return None,
    };
    let (shard, identity) = rest.split_once(':')?;
    shard.parse::<u32>().ok()?;
    Some((identity.parse().ok()?, here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_says_the_shard_the_identity_and_where_it_is() {
        for (identity, here, shards, text) in [
            (70_103, true, 64, "23:70103:in"),
            (70_103, false, 64, "23:70103:out"),
            (2, false, 64, "2:2:out"),
            (64, true, 64, "0:64:in"),
            (0, false, 64, "0:0:out"),
            (u32::MAX, true, 64, "63:4294967295:in"),
            (u32::MAX - 1, false, u32::MAX, "4294967294:4294967294:out"),
        ] {
            let written = EndText::of(identity, here, NonZeroU32::new(shards).unwrap());
            assert_eq!(written.text(), text.as_bytes());
            assert_eq!(read(text), Some((identity, here)));
        }
    }

    #[test]
    fn what_is_no_end_is_nobodys() {
        for wrong in [
            "",
            "7",
            ":in",
            "7:in",
            "7:7",
            "7:7:",
            "7:7:i",
            "7:7:in ",
            ":7:in",
            "7::in",
            "x:7:in",
            "7:x:out",
            "7:-7:out",
            "7:7:7:in",
            "7:4294967296:in",
            "nobody",
            "7:7:in:out",
        ] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}
