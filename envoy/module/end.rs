//! One end of a connection, as the listener filter `identity` leaves it for every other filter: `SHARD:IDENTITY:in` for an
//! endpoint of this node, `SHARD:IDENTITY:out` for whoever is not. xds/compile/end.py says what each part is for.

use std::num::NonZeroU32;

use crate::text::Text;

/// The keys of the filter state.
pub const SOURCE: &str = "lockgate.source";
pub const DESTINATION: &str = "lockgate.destination";

const HERE: &str = ":in";
const ELSEWHERE: &str = ":out";

/// The text of an end: at most 25 bytes.
pub type End = Text<31>;

/// The end of an identity, whose policies are in the shard `identity % shards`; `here`: it is an endpoint of this node.
pub fn written(identity: u32, here: bool, shards: NonZeroU32) -> End {
    let place = if here { HERE } else { ELSEWHERE };
    Text::of(format_args!("{}:{identity}{place}", identity % shards)).unwrap() // there is room
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
            let written = written(identity, here, NonZeroU32::new(shards).unwrap());
            assert_eq!(written.as_bytes(), text.as_bytes());
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
