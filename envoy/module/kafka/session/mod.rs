//! One connection: requests judged on their way to the server, responses kept in their order on the way back. No I/O.
//!
//! Bytes go in as they come and come out as `Piece`s; nothing is passed on that was not judged, and whatever is held back
//! is bounded. What is not the Kafka protocol ends the connection.

mod glance;
#[cfg(test)]
mod glance_tests;
mod judge;
mod metadata;
#[cfg(test)]
mod metadata_tests;
mod out;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

pub use self::glance::Glance;
use self::judge::{allows, denial};
pub use self::out::{Denial, Out, Piece};
use super::frame::{look, Frame, Seen};
use super::last_produce::LastProduce;
use super::policy::{Ends, Policy, Say};
use super::published::{Hold, Published};
use super::queue::{Queue, Waits};
use super::rewrite::version_unknown;
use super::rules::{Part, Request};
use super::schema::{Api, Asked, Tables, Topic, API_VERSIONS, FETCH, METADATA, PRODUCE};
use super::wire::Trouble;

const LONGEST_HELD: usize = 16 << 20; // of one request that has to be seen whole
const MOST_NAMES: usize = 4096; // topic ids that a connection remembers
pub const OWN_CORRELATION: i32 = 0x4c47_0001;
const NO_SESSION: i32 = -1; // as a Fetch's epoch: do not begin one
const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;

#[derive(Clone, Copy)]
enum Body {
    Between,
    Pass(usize),
    Drop(usize),
}

enum Step {
    /// So many bytes are dealt with.
    On(usize),
    /// Nothing can be said before so many bytes of this request are there.
    More(usize),
    /// Nothing more before the server has answered.
    Wait,
    Close(String),
}

/// Who speaks with whom, and how far they are.
pub struct Session {
    tables: &'static Tables,
    published: &'static Published,
    ends: Ends,
    generation: u64,
    policy: Option<Arc<Policy>>,
    sides: Vec<Say>,
    hold: Hold,
    wanted: usize,
    body: Body,
    queue: Queue,
    names: HashMap<[u8; 16], Vec<u8>>,
    asked_names: bool,
    client_full: bool,
    last_produce: Option<LastProduce>,
}

impl Session {
    pub fn new(tables: &'static Tables, published: &'static Published, ends: Ends) -> Session {
        Session {
            tables,
            published,
            ends,
            generation: 0,
            policy: None,
            sides: Vec::new(),
            hold: Hold::default(),
            wanted: 0,
            body: Body::Between,
            queue: Queue::default(),
            names: HashMap::new(),
            asked_names: false,
            client_full: false,
            last_produce: None,
        }
    }

    /// True while nothing more should be read from the client.
    pub fn is_paused(&self) -> bool {
        self.client_full || self.queue.is_full()
    }

    /// The client does not take what it is sent (or does again).
    pub fn set_client_full(&mut self, full: bool) {
        self.client_full = full;
    }

    /// True when held requests could be gone on with.
    pub fn can_resume(&self) -> bool {
        !self.is_paused() && !self.hold.is_empty() && self.hold.bytes().len() >= self.wanted
    }

    /// Where refusals are logged; empty: nowhere.
    pub fn log(&self) -> &str {
        self.policy.as_ref().map_or("", |policy| &policy.log)
    }

    /// Bytes from the client; none to go on with what is held.
    pub fn from_client(&mut self, data: &[u8]) -> Out {
        let mut out = Out::default();
        if self.hold.is_empty() {
            let done = self.requests(data, &mut out);
            let rest = data.get(done..).unwrap_or(&[]);
            out.run(rest.len(), false);
            self.keep(rest, &mut out);
            return out;
        }
        if !self.hold.extend(data) {
            out.close = Some("more requests are held back than there is room for".to_string());
            return out;
        }
        out.run(data.len(), false);
        if self.hold.bytes().len() < self.wanted || self.is_paused() {
            return out;
        }
        let held = self.hold.take();
        let mut inner = Out::default();
        let done = self.requests(&held, &mut inner);
        out.take_held(inner.pieces, &held);
        out.answer = inner.answer;
        out.close = inner.close;
        out.denials = inner.denials;
        self.keep(held.get(done..).unwrap_or(&[]), &mut out);
        out
    }

    fn keep(&mut self, rest: &[u8], out: &mut Out) {
        if !rest.is_empty() && out.close.is_none() && !self.hold.extend(rest) {
            out.close = Some("more requests are held back than there is room for".to_string());
        }
    }

    /// Deal with as much as can be; how many bytes that was.
    fn requests(&mut self, data: &[u8], out: &mut Out) -> usize {
        let mut at = 0;
        self.wanted = 0;
        while at < data.len() {
            let rest = data.get(at..).unwrap_or(&[]);
            match self.body {
                Body::Pass(left) | Body::Drop(left) if left > 0 => {
                    let count = left.min(rest.len());
                    let pass = matches!(self.body, Body::Pass(_));
                    self.body = if pass {
                        Body::Pass(left - count)
                    } else {
                        Body::Drop(left - count)
                    };
                    out.run(count, pass);
                    at += count;
                }
                _ => {
                    self.body = Body::Between;
                    if self.is_paused() {
                        break;
                    }
                    match self.request(rest, out) {
                        Step::On(count) => {
                            self.asked_names = false;
                            at += count;
                        }
                        Step::More(wanted) => {
                            self.wanted = wanted;
                            break;
                        }
                        Step::Wait => break,
                        Step::Close(reason) => {
                            out.close = Some(reason);
                            break;
                        }
                    }
                }
            }
        }
        at
    }

    fn request(&mut self, data: &[u8], out: &mut Out) -> Step {
        let frame = match look(data) {
            Seen::Frame(frame) => frame,
            // Looked at again when there is twice as much: a byte at a time costs no more than a whole frame.
            Seen::More => return Step::More(data.len() + 1),
            Seen::Bad(reason) => return Step::Close(format!("not a Kafka request: {}", reason)),
        };
        if let Err(reason) = self.refresh() {
            return Step::Close(reason);
        }
        let request = Request {
            key: frame.key,
            version: frame.version,
            client: frame.client,
        };
        let tables = self.tables;
        let api = match tables.api(frame.key) {
            Some(api) if api.knows(frame.version) => api,
            known => return self.unknown(data, &frame, request, known, out),
        };
        if let Some(name) = self.closed() {
            out.denials.push(denial(request, &name, Vec::new(), 0));
            return Step::Close(format!("denied by {}", name));
        }
        let mut asked = Asked::default();
        let read = match frame.body(api, data) {
            Ok(mut reader) => api.read(frame.version, &mut reader, &mut asked),
            Err(trouble) => Err(trouble),
        };
        let whole = match read {
            Ok(()) => true,
            Err(Trouble::Short) if frame.key == PRODUCE && asked.names_whole() => false,
            Err(Trouble::Short) => return more(&frame, data.len()),
            Err(Trouble::Malformed) => {
                return Step::Close(format!("a malformed {} request, version {}", api.name, frame.version))
            }
        };
        if frame.key == FETCH && asked.session != 0 {
            return self.no_session(data, &frame, api, out);
        }
        if let Some(step) = self.find_names(&frame, request, &asked, out) {
            return step;
        }
        if frame.key == METADATA && self.allows(request, Part::NoTopic).is_ok() {
            return self.metadata(data, &frame, api, request, &asked, out);
        }
        match self.judge(request, &asked) {
            Ok(()) => self.forward(data, &frame, &asked, out),
            Err(_) if !whole && !asked.shape_whole() => more(&frame, data.len()),
            Err(name) => self.deny(data, &frame, api, &asked, &name, out),
        }
    }

    /// Read the policy anew when there is a new one.
    fn refresh(&mut self) -> Result<(), String> {
        let generation = self.published.generation();
        if generation != self.generation || self.policy.is_none() {
            let policy = self.published.policy().ok_or("lockgate:no-policy-received")?;
            self.sides = policy.sides(self.ends);
            self.policy = Some(policy);
            self.generation = generation;
        }
        Ok(())
    }

    /// A request of an API or version that we cannot look into.
    fn unknown(&mut self, data: &[u8], frame: &Frame, request: Request, api: Option<&Api>, out: &mut Out) -> Step {
        if let (API_VERSIONS, Some(api)) = (frame.key, api) {
            if frame.version > api.last {
                self.answer(version_unknown(frame.correlation, api), out);
                return self.gone(data, frame, out);
            }
        }
        match self.allows(request, Part::Everything).map_err(str::to_string) {
            // A SASL token of the old kind would come behind it, which is no request.
            Ok(()) if frame.key != 17 => {
                self.queue.push(frame.correlation, Waits::Plain);
                self.pass(data, frame, out)
            }
            Ok(()) => Step::Close("SaslHandshake version 0 cannot be judged".to_string()),
            Err(name) => {
                out.denials.push(denial(request, &name, Vec::new(), 0));
                Step::Close(format!("API {} version {} cannot be judged", frame.key, frame.version))
            }
        }
    }

    /// An incremental Fetch leaves out what the server remembers, which a policy may no longer allow: have none.
    fn no_session(&mut self, data: &[u8], frame: &Frame, api: &Api, out: &mut Out) -> Step {
        let answer = api.failure(frame.version, frame.correlation, FETCH_SESSION_ID_NOT_FOUND);
        self.answer(answer, out);
        self.gone(data, frame, out)
    }

    fn forward(&mut self, data: &[u8], frame: &Frame, asked: &Asked, out: &mut Out) -> Step {
        match frame.key {
            PRODUCE if asked.acks == Some(0) => {}
            API_VERSIONS => self.queue.push(frame.correlation, Waits::Versions(frame.version)),
            _ => self.queue.push(frame.correlation, Waits::Plain),
        }
        match asked.epoch_at {
            Some(at) if frame.key == FETCH => {
                // Behind Kafka's own meaning of it: a full Fetch that begins no session.
                let mut head = data.get(..at).unwrap_or(&[]).to_vec();
                head.extend_from_slice(&NO_SESSION.to_be_bytes());
                let length = head.len();
                out.run(length, false);
                out.pieces.push(Piece::New(head));
                out.run(frame.total.saturating_sub(length), true);
                Step::On(frame.total)
            }
            _ => self.pass(data, frame, out),
        }
    }

    fn deny(&mut self, data: &[u8], frame: &Frame, api: &Api, asked: &Asked, name: &str, out: &mut Out) -> Step {
        let request = Request {
            key: frame.key,
            version: frame.version,
            client: frame.client,
        };
        let refused = self.refused(request, asked);
        let unknown = |topic: &Topic| self.topic_part(topic) == Part::Everything;
        let answer = api.refusal(frame.version, frame.correlation, asked, unknown);
        out.denials.push(denial(request, name, refused, api.code_of(asked)));
        if !(frame.key == PRODUCE && asked.acks == Some(0)) {
            self.answer(answer, out);
        }
        self.gone(data, frame, out)
    }

    fn answer(&mut self, answer: Vec<u8>, out: &mut Out) {
        if let Some(now) = self.queue.answer(answer) {
            out.answer.extend(now);
        }
    }

    fn pass(&mut self, data: &[u8], frame: &Frame, out: &mut Out) -> Step {
        let here = frame.total.min(data.len());
        out.run(here, true);
        self.body = Body::Pass(frame.total - here);
        Step::On(here)
    }

    fn gone(&mut self, data: &[u8], frame: &Frame, out: &mut Out) -> Step {
        let here = frame.total.min(data.len());
        out.run(here, false);
        self.body = Body::Drop(frame.total - here);
        Step::On(here)
    }

    /// Bytes from the server.
    pub fn from_server(&mut self, data: &[u8]) -> Out {
        let mut out = Out::default();
        let refreshed = self.refresh().is_ok();
        let (policy, sides) = (self.policy.as_deref(), &self.sides);
        let visible = |version: i16, client: &[u8], name: &[u8]| {
            let request = Request {
                key: METADATA,
                version,
                client,
            };
            refreshed && allows(policy, sides, request, Part::Topic(name)).is_ok()
        };
        let learned = self.queue.from_server(data, self.tables, &visible, &mut out);
        if !learned.is_empty() {
            self.last_produce = None;
            if self.names.len() + learned.len() > MOST_NAMES {
                self.names.clear();
            }
            self.names.extend(learned);
        }
        out
    }
}

/// Wait for more of a request, with twice as much of it as there is, or all of it.
fn more(frame: &Frame, have: usize) -> Step {
    if frame.total > LONGEST_HELD && have >= LONGEST_HELD {
        return Step::Close("a request too long to be judged".to_string());
    }
    if frame.total <= have {
        return Step::Close("a request contradicts its length".to_string());
    }
    Step::More(frame.total.min(have.saturating_mul(2)).min(LONGEST_HELD.max(have + 1)))
}
