//! Responses on their way back: each belongs to the oldest request that waits, and our own answers keep their place.

use std::collections::VecDeque;

use super::published::Hold;
use super::rewrite::{metadata_response, names, versions, MetadataPlan};
use super::schema::Tables;
use super::session::{Out, Piece};
use super::wire::{Reader, Trouble};

const MOST_WAITING: usize = 1000; // requests without an answer; more are not read
const MOST_ANSWERS: usize = 4 << 20; // bytes of answers that wait for their turn
const LONGEST_REWRITTEN: usize = 8 << 20; // of a response that passes in another form

/// What is done with a request's response.
pub enum Waits {
    Plain,
    Versions(i16),
    /// With the client's id.
    Metadata(Box<(MetadataPlan, Vec<u8>)>),
    /// The answer to a question of our own.
    Names,
    /// There will be none: this is it.
    Answer(Vec<u8>),
}

struct Waiting {
    correlation: i32,
    what: Waits,
}

/// Topic names by id.
pub type Learned = Vec<([u8; 16], Vec<u8>)>;

/// Asks whether a client may see a topic: the request's version, the client's id, the topic's name.
pub type Visible<'a> = dyn Fn(i16, &[u8], &[u8]) -> bool + 'a;

#[derive(Default)]
pub struct Queue {
    waiting: VecDeque<Waiting>,
    answers: usize,
    asking: usize,
    hold: Hold,
    wanted: usize,
    left: usize,
    full: bool,
}

impl Queue {
    /// True while no further request can be taken: until half of those that wait have their answer.
    pub fn is_full(&self) -> bool {
        self.full || self.asking > 0
    }

    pub fn push(&mut self, correlation: i32, what: Waits) {
        if let Waits::Names = what {
            self.asking += 1;
        }
        self.waiting.push_back(Waiting { correlation, what });
        self.full |= self.waiting.len() >= MOST_WAITING;
    }

    /// An answer of ours: returned when it may go out now, else kept behind what was asked before.
    pub fn answer(&mut self, answer: Vec<u8>) -> Option<Vec<u8>> {
        if self.waiting.is_empty() {
            return Some(answer);
        }
        self.answers += answer.len();
        self.push(0, Waits::Answer(answer));
        self.full |= self.answers > MOST_ANSWERS;
        None
    }

    /// True when so many bytes from the server pass whatever they are, and then they have: they are of a response whose
    /// begin was seen, and no answer of ours comes behind them.
    pub fn pass_rest(&mut self, count: usize) -> bool {
        let enough = self.left > count || (self.left == count && !self.answer_follows());
        if self.left == 0 || !enough || !self.hold.is_empty() {
            return false;
        }
        self.left -= count;
        if self.left == 0 {
            self.forget();
        }
        true
    }

    /// The same when they begin a response, with `begin`. False changes nothing.
    pub fn pass_response(&mut self, begin: &[u8], count: usize) -> bool {
        let correlation = match self.waiting.front() {
            Some(Waiting {
                correlation,
                what: Waits::Plain,
            }) if self.left == 0 && self.hold.is_empty() => *correlation,
            _ => return false,
        };
        let mut reader = Reader::new(begin, 8, 0);
        let (length, answered) = match (reader.i32(), reader.i32()) {
            (Ok(length), Ok(answered)) => (length, answered),
            _ => return false,
        };
        // Of a length, and not longer than what has come of it.
        let total = match usize::try_from(length) {
            Ok(length) if length >= 4 && length + 4 >= count => length + 4,
            _ => return false,
        };
        if answered != correlation || (total == count && self.answer_follows()) {
            return false;
        }
        self.left = total - count;
        if self.left == 0 {
            self.forget();
        }
        true
    }

    /// Whether an answer of ours goes out with the end of the oldest response.
    fn answer_follows(&self) -> bool {
        let next = self.waiting.get(1).map(|waiting| &waiting.what);
        matches!(next, Some(Waits::Answer(_)))
    }

    /// Bytes from the server; what they told about topic ids.
    pub fn from_server(&mut self, data: &[u8], tables: &Tables, visible: &Visible, out: &mut Out) -> Learned {
        let mut learned = Vec::new();
        if self.hold.is_empty() {
            let done = self.responses(data, tables, visible, out, &mut learned);
            self.keep(data.get(done..).unwrap_or(&[]), out);
            self.count(data.len() - done.min(data.len()), out);
            return learned;
        }
        if !self.hold.extend(data) {
            out.close = Some("more responses are held back than there is room for".to_string());
            return learned;
        }
        self.count(data.len(), out);
        if self.hold.bytes().len() < self.wanted {
            return learned;
        }
        let held = self.hold.take();
        let mut inner = Out::default();
        let done = self.responses(&held, tables, visible, &mut inner, &mut learned);
        out.take_held(inner.pieces, &held);
        out.close = inner.close;
        self.keep(held.get(done..).unwrap_or(&[]), out);
        learned
    }

    fn keep(&mut self, rest: &[u8], out: &mut Out) {
        if !rest.is_empty() && out.close.is_none() && !self.hold.extend(rest) {
            out.close = Some("more responses are held back than there is room for".to_string());
        }
    }

    fn count(&mut self, gone: usize, out: &mut Out) {
        if gone > 0 {
            out.pieces.push(Piece::Gone(gone));
        }
    }

    fn responses(
        &mut self,
        data: &[u8],
        tables: &Tables,
        visible: &Visible,
        out: &mut Out,
        learned: &mut Learned,
    ) -> usize {
        let mut at = 0;
        self.wanted = 0;
        while at < data.len() {
            let rest = data.get(at..).unwrap_or(&[]);
            if self.left > 0 {
                let count = self.left.min(rest.len());
                same(out, count);
                at += count;
                self.left -= count;
                if self.left == 0 {
                    self.finish(out);
                }
                continue;
            }
            match self.response(rest, tables, visible, out, learned) {
                Ok(0) => break,
                Ok(count) => at += count,
                Err(reason) => {
                    out.close = Some(reason);
                    break;
                }
            }
        }
        at
    }

    /// The begin of a response; how many bytes are dealt with, 0 when more must come.
    fn response(
        &mut self,
        data: &[u8],
        tables: &Tables,
        visible: &Visible,
        out: &mut Out,
        learned: &mut Learned,
    ) -> Result<usize, String> {
        let first = self.waiting.front().ok_or("the server answers what nobody asked")?;
        let mut reader = Reader::new(data, 8, 0);
        let (length, correlation) = match (reader.i32(), reader.i32()) {
            (Ok(length), Ok(correlation)) => (length, correlation),
            _ => {
                self.wanted = 8;
                return Ok(0);
            }
        };
        let length = usize::try_from(length).ok().filter(|length| *length >= 4);
        let total = length.ok_or("the length of a response is none")? + 4;
        if correlation != first.correlation {
            return Err("the server does not answer in the order of the requests".to_string());
        }
        if let Waits::Plain = first.what {
            let here = total.min(data.len());
            same(out, here);
            self.left = total - here;
            if self.left == 0 {
                self.finish(out);
            }
            return Ok(here);
        }
        if total > LONGEST_REWRITTEN {
            return Err("a response is too long to be looked at".to_string());
        }
        let frame = match data.get(..total) {
            Some(frame) => frame,
            None => {
                self.wanted = total;
                return Ok(0);
            }
        };
        let passed = match &first.what {
            Waits::Versions(version) => versions(frame, *version, &tables.apis).map(Some),
            Waits::Metadata(asked) => {
                let (plan, client) = asked.as_ref();
                let visible = |name: &[u8]| visible(plan.version, client, name);
                metadata_response(frame, &tables.metadata_response, plan, visible).map(Some)
            }
            Waits::Names => names(frame, &tables.metadata_response).map(|found| {
                learned.extend(found);
                None
            }),
            Waits::Plain | Waits::Answer(_) => Err(Trouble::Malformed),
        };
        let passed = passed.map_err(|_| "a response that has to be looked at is malformed".to_string())?;
        if let Waits::Names = first.what {
            self.asking = self.asking.saturating_sub(1);
        }
        out.pieces.push(Piece::Gone(total));
        if let Some(passed) = passed {
            out.pieces.push(Piece::New(passed));
        }
        self.finish(out);
        Ok(total)
    }

    /// The oldest request has its answer; ours that stand behind it go out with it.
    fn finish(&mut self, out: &mut Out) {
        self.waiting.pop_front();
        while let Some(Waiting {
            what: Waits::Answer(_), ..
        }) = self.waiting.front()
        {
            if let Some(Waiting {
                what: Waits::Answer(answer),
                ..
            }) = self.waiting.pop_front()
            {
                self.answers = self.answers.saturating_sub(answer.len());
                out.pieces.push(Piece::New(answer));
            }
        }
        self.ease();
    }

    /// The same where none of ours does.
    fn forget(&mut self) {
        self.waiting.pop_front();
        self.ease();
    }

    fn ease(&mut self) {
        if self.waiting.len() <= MOST_WAITING / 2 && self.answers <= MOST_ANSWERS / 2 {
            self.full = false;
        }
    }
}

fn same(out: &mut Out, count: usize) {
    if let Some(Piece::Same(before)) = out.pieces.last_mut() {
        *before += count;
    } else if count > 0 {
        out.pieces.push(Piece::Same(count));
    }
}
