//! One connection: requests judged on their way to the server, responses kept in their order on the way back. No I/O.
//!
//! Bytes go in as they come and come out as `Piece`s; nothing is passed on that was not judged, and whatever is held back
//! is bounded. What is not the Kafka protocol ends the connection.

#[path = "session_glance.rs"]
mod glance;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

pub use self::glance::Glance;
use super::few::Few;
use super::frame::{look, Frame, Seen};
use super::last_produce::LastProduce;
use super::policy::{Ends, Policy, Say};
use super::published::{Hold, Published};
use super::queue::{Queue, Waits};
use super::rewrite::{metadata_request, names_request, version_unknown, MetadataPlan};
use super::rules::{Part, Request};
use super::schema::{read_table, Api, Asked, Topic};
use super::wire::Trouble;

pub const PRODUCE: i16 = 0;
pub const FETCH: i16 = 1;
pub const METADATA: i16 = 3;
pub const API_VERSIONS: i16 = 18;

const LONGEST_HELD: usize = 16 << 20; // of one request that has to be seen whole
const MOST_NAMES: usize = 4096; // topic ids that a connection remembers
const MOST_IDS: usize = 1024; // that are asked for at once
pub const OWN_CORRELATION: i32 = 0x4c47_0001;
const NO_SESSION: i32 = -1; // as a Fetch's epoch: do not begin one
const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;

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
        let mut other = read_table(super::apis::METADATA_RESPONSE)?;
        Ok(Tables {
            apis: read_table(super::apis::APIS)?,
            metadata_response: other.pop().ok_or("no Metadata response")?,
        })
    }

    pub fn api(&self, key: i16) -> Option<&Api> {
        self.apis.iter().find(|api| api.key == key)
    }
}

/// What becomes of the bytes that came in, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Same(usize),
    Gone(usize),
    New(Vec<u8>),
}

impl Default for Piece {
    fn default() -> Piece {
        Piece::Same(0)
    }
}

/// A request that was refused, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    pub key: i16,
    pub version: i16,
    pub client: Vec<u8>,
    pub topics: Vec<Vec<u8>>,
    pub name: String,
    /// What was done about it.
    pub code: i16,
}

/// What one step comes to.
#[derive(Debug, Default)]
pub struct Out {
    pub pieces: Few<Piece, 2>,
    /// For the client, now.
    pub answer: Vec<u8>,
    /// End the connection, and why.
    pub close: Option<String>,
    pub denials: Vec<Denial>,
}

impl Out {
    /// Pass or drop `count` bytes.
    fn run(&mut self, count: usize, pass: bool) {
        match (self.pieces.last_mut(), pass) {
            _ if count == 0 => {}
            (Some(Piece::Same(before)), true) | (Some(Piece::Gone(before)), false) => *before += count,
            (_, true) => self.pieces.push(Piece::Same(count)),
            (_, false) => self.pieces.push(Piece::Gone(count)),
        }
    }
}

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
        let mut at = 0;
        for piece in inner.pieces.into_vec() {
            match piece {
                Piece::Same(count) => {
                    out.pieces
                        .push(Piece::New(held.get(at..at + count).unwrap_or(&[]).to_vec()));
                    at += count;
                }
                Piece::Gone(count) => at += count,
                new => out.pieces.push(new),
            }
        }
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

    /// The name of what denies the whole connection.
    fn closed(&self) -> Option<String> {
        self.sides.iter().find_map(|side| match side {
            Say::Deny(name) => Some(name.clone()),
            _ => None,
        })
    }

    fn allows(&self, request: Request, part: Part) -> Result<(), &str> {
        allows(self.policy.as_deref(), &self.sides, request, part)
    }

    fn topic_part<'s>(&'s self, topic: &'s Topic) -> Part<'s> {
        let name = match topic.id {
            Some(id) if topic.name.is_none() => self.names.get(&id).map(Vec::as_slice),
            _ => topic.name,
        };
        name.map_or(Part::Everything, Part::Topic)
    }

    fn judge(&self, request: Request, asked: &Asked) -> Result<(), String> {
        let judged = |part| self.allows(request, part).map_err(str::to_string);
        let mut nothing = true;
        for topic in asked.topics.iter() {
            judged(self.topic_part(topic))?;
            nothing = false;
        }
        for name in asked.items.iter().filter_map(|item| item.topic()) {
            judged(Part::Topic(name))?;
            nothing = false;
        }
        match asked.everything {
            true => judged(Part::Everything),
            false if nothing => judged(Part::NoTopic),
            false => Ok(()),
        }
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

    /// Ask the server for the names of topics that a request has by id only. None: all are known that can be.
    fn find_names(&mut self, frame: &Frame, request: Request, asked: &Asked, out: &mut Out) -> Option<Step> {
        let by_id = asked.topics.iter().any(|topic| topic.name.is_none());
        if frame.key == METADATA || !by_id || self.asked_names || self.allows(request, Part::Everything).is_ok() {
            return None;
        }
        let unknown: Vec<[u8; 16]> = asked
            .topics
            .iter()
            .filter(|topic| topic.name.is_none())
            .filter_map(|topic| topic.id)
            .filter(|id| !self.names.contains_key(id))
            .collect();
        if unknown.is_empty() {
            return None;
        }
        if unknown.len() > MOST_IDS {
            return Some(Step::Close(
                "a request with more topic ids than can be asked for".to_string(),
            ));
        }
        out.pieces.push(Piece::New(names_request(OWN_CORRELATION, &unknown)));
        self.queue.push(OWN_CORRELATION, Waits::Names);
        self.asked_names = true;
        Some(Step::Wait)
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

    /// The names of the topics that are not allowed.
    fn refused(&self, request: Request, asked: &Asked) -> Vec<Vec<u8>> {
        let named = asked.topics.iter().map(|topic| match self.topic_part(topic) {
            Part::Topic(name) => name.to_vec(),
            _ => hex(topic.id.unwrap_or_default()),
        });
        let items = asked.items.iter().filter_map(|item| item.topic()).map(<[u8]>::to_vec);
        named
            .chain(items)
            .filter(|name| self.allows(request, Part::Topic(name)).is_err())
            .collect()
    }

    /// Metadata is answered topic by topic: what is not allowed never reaches the server and comes back refused.
    fn metadata(
        &mut self,
        data: &[u8],
        frame: &Frame,
        api: &Api,
        request: Request,
        asked: &Asked,
        out: &mut Out,
    ) -> Step {
        // The first version's empty list is every topic.
        let all = asked.everything || (frame.version == 0 && asked.topics.is_empty());
        let open = self.allows(request, Part::Everything).is_ok();
        let pass: Vec<bool> = asked
            .topics
            .iter()
            .map(|topic| {
                open || topic
                    .name
                    .map_or(true, |name| self.allows(request, Part::Topic(name)).is_ok())
            })
            .collect();
        let by_id = asked.topics.iter().any(|topic| topic.name.is_none());
        let plan = MetadataPlan {
            version: frame.version,
            refused: asked
                .topics
                .iter()
                .zip(&pass)
                .filter(|(_, pass)| !**pass)
                .filter_map(|(topic, _)| topic.name.map(<[u8]>::to_vec))
                .collect(),
            sift: !open && (all || by_id),
            only_refused: frame.version == 0 && !all && !pass.contains(&true),
            by_id,
        };
        if plan.refused.is_empty() && !plan.sift {
            self.queue.push(frame.correlation, Waits::Plain);
            return self.pass(data, frame, out);
        }
        if !plan.refused.is_empty() {
            let name = self.judge(request, asked).err().unwrap_or_default();
            out.denials
                .push(denial(request, &name, plan.refused.clone(), api.code_of(asked)));
        }
        let flexible = api.is_flexible(frame.version);
        let passing = |at: usize| pass.get(at).copied().unwrap_or(false);
        // As it came while nothing is taken out: null, which is every topic, has no elements either.
        let forwarded = if plan.refused.is_empty() {
            data.get(..frame.total).map(<[u8]>::to_vec)
        } else {
            metadata_request(data, frame, flexible, asked, passing)
        };
        let forwarded = match forwarded {
            Some(forwarded) => forwarded,
            None => return more(frame, data.len()),
        };
        let client = frame.client.to_vec();
        self.queue
            .push(frame.correlation, Waits::Metadata(Box::new((plan, client))));
        out.run(frame.total, false);
        out.pieces.push(Piece::New(forwarded));
        Step::On(frame.total)
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

/// Ok, or the name of what denies it.
fn allows<'s>(policy: Option<&Policy>, sides: &'s [Say], request: Request, part: Part) -> Result<(), &'s str> {
    for side in sides {
        match side {
            Say::Allow => {}
            Say::Deny(name) => return Err(name),
            Say::Rules(set, name) => {
                let set = policy.and_then(|policy| policy.sets.get(*set));
                if !set.map_or(false, |set| set.allows(request, part)) {
                    return Err(name);
                }
            }
        }
    }
    Ok(())
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

fn denial(request: Request, name: &str, topics: Vec<Vec<u8>>, code: i16) -> Denial {
    Denial {
        key: request.key,
        version: request.version,
        client: request.client.to_vec(),
        topics,
        name: name.to_string(),
        code,
    }
}

fn hex(id: [u8; 16]) -> Vec<u8> {
    id.iter()
        .map(|byte| format!("{:02x}", byte))
        .collect::<String>()
        .into_bytes()
}
