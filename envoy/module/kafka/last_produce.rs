//! The Produce that was judged last: one that differs from it only in its records is allowed too, and need not be read again.
//!
//! A producer sends the same request over and over: only length, correlation id and records change. What is compared is
//! all that the walk (`schema/walk.rs`) has looked at, so the answer is the walk's own, for the same policy.

use super::frame::{self, Frame};
use super::schema::Asked;
use super::wire::Reader;

const LONGEST_HEAD: usize = 160;
const LONGEST_TAIL: usize = 8; // of tagged fields: one byte each for partition, topic and request

pub struct LastProduce {
    generation: u64,
    flexible: bool,
    answered: bool,
    /// Up to the length of the records.
    head: [u8; LONGEST_HEAD],
    head_length: usize,
    /// What stands behind the records, if that was seen.
    tail: [u8; LONGEST_TAIL],
    tail_length: Option<usize>,
}

/// What has to be known of a Produce that is allowed.
pub struct Repeated {
    pub total: usize,
    pub correlation: i32,
    /// Whether the client waits for an answer.
    pub answered: bool,
}

impl LastProduce {
    /// From a Produce that is allowed in this generation of the policy, of which `data` has come. None when it is
    /// to more than one partition, or longer than is kept.
    pub fn of(generation: u64, flexible: bool, data: &[u8], frame: &Frame, asked: &Asked) -> Option<LastProduce> {
        let records = asked.only_records()?;
        let mut last = LastProduce {
            generation,
            flexible,
            answered: asked.acks != Some(0),
            head: [0; LONGEST_HEAD],
            head_length: records.length_at,
            tail: [0; LONGEST_TAIL],
            tail_length: None,
        };
        last.head
            .get_mut(..records.length_at)?
            .copy_from_slice(data.get(..records.length_at)?);
        if data.len() >= frame.total {
            let tail = data.get(records.end..frame.total)?;
            last.tail.get_mut(..tail.len())?.copy_from_slice(tail);
            last.tail_length = Some(tail.len());
        }
        Some(last)
    }

    /// The Produce that `data` begins, if the walk would say of it what it said of this one.
    #[inline]
    pub fn again(&self, generation: u64, data: &[u8]) -> Option<Repeated> {
        let head = self.head.get(..self.head_length)?;
        let theirs = data.get(..self.head_length)?;
        let same = generation == self.generation
            && theirs.get(frame::KEY..frame::CORRELATION)? == head.get(frame::KEY..frame::CORRELATION)?
            && theirs.get(frame::CLIENT..)? == head.get(frame::CLIENT..)?;
        if !same {
            return None;
        }
        let total = frame::total(data)?;
        let mut reader = Reader::new(data, total, self.head_length);
        let length = reader.length(self.flexible, true).ok()?.unwrap_or(0);
        reader.skip(length).ok()?;
        let reads_on = if data.len() >= total {
            // To the end, which has to be the same.
            data.get(reader.at()..total)? == self.tail.get(..self.tail_length?)?
        } else {
            // No further than into the records; behind them a frame with tagged fields has a byte at least.
            reader.at() > data.len() && reader.left() >= usize::from(self.flexible)
        };
        if !reads_on {
            return None;
        }
        let mut reader = Reader::new(data, total, frame::CORRELATION);
        Some(Repeated {
            total,
            correlation: reader.i32().ok()?,
            answered: self.answered,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{look, Seen};
    use super::super::schema::{Tables, PRODUCE};
    use super::*;

    /// Produce version 9 of "app" to partition 3 of "orders".
    fn produce(records: &[u8]) -> Vec<u8> {
        let body = b"\0\0\0\x09\0\0\0\x01\0\x03app\0\0\xff\xff\0\0\0\0\x02\x07orders\x02\0\0\0\x03";
        let whole = [&[0; 4], &body[..], &[records.len() as u8 + 1], records, &[0, 0, 0]].concat();
        of_length(whole.len(), whole)
    }

    fn of_length(total: usize, mut data: Vec<u8>) -> Vec<u8> {
        data[3] = total as u8 - 4;
        data
    }

    fn last(data: &[u8]) -> LastProduce {
        let api = Tables::shared().unwrap().api(PRODUCE).unwrap();
        let frame = match look(data) {
            Seen::Frame(frame) => frame,
            _ => panic!(),
        };
        let mut asked = Asked::default();
        let _ = api.read(9, &mut frame.body(api, data).unwrap(), &mut asked);
        LastProduce::of(1, true, data, &frame, &asked).unwrap()
    }

    #[test]
    fn only_length_correlation_and_records_may_differ() {
        let (last, one, other) = (last(&produce(b"one")), produce(b"one"), produce(b"another"));
        let again = last.again(1, &other).unwrap();
        assert_eq!((again.total, again.correlation, again.answered), (other.len(), 1, true));
        assert!(last.again(2, &other).is_none(), "another policy");
        let records = one.len() - 6..one.len() - 3;
        for at in (4..one.len()).filter(|at| !records.contains(at)) {
            let mut changed = one.clone();
            changed[at] ^= 1;
            assert_eq!(last.again(1, &changed).is_some(), (8..12).contains(&at), "{at}");
        }
    }

    #[test]
    fn records_that_go_on_leave_room_for_what_stands_behind_them() {
        let one = produce(b"abcdefgh");
        let seen = &one[..one.len() - 5];
        for last in [last(&one), last(seen)] {
            assert!(last.again(1, seen).is_some());
            assert!(last
                .again(1, &of_length(one.len() - 3, one.clone())[..seen.len()])
                .is_none());
            assert!(last
                .again(1, &of_length(one.len() - 4, one.clone())[..seen.len()])
                .is_none());
            assert!(last.again(1, &one[..one.len() - 3]).is_none(), "all of the records");
            assert!(last.again(1, &one[..20]).is_none(), "less than the head");
        }
        assert!(last(seen).again(1, &one).is_none(), "nobody has seen the end");
    }
}
