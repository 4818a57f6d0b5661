//! The usual case, cheaply: a buffer that is one request or response, or a part of one, and passes as it is.
//!
//! Nearly every buffer does. For it no list of pieces is made and no memory is taken, and what stands behind a request's
//! judged part is not looked at. Whatever else it is is left to `from_client` and `from_server`, which take buffers apart.

use super::super::frame::{look, Seen};
use super::super::last_produce::LastProduce;
use super::super::queue::Waits;
use super::super::rules::Request;
use super::super::schema::{Asked, API_VERSIONS, FETCH, METADATA, PRODUCE};
use super::super::wire::Trouble;
use super::{Body, Session, NO_SESSION};

/// What can be said of a buffer without taking it apart.
#[derive(Debug)]
pub enum Glance {
    Unsaid,
    Pass,
    /// It passes with another begin, of the same length.
    Begin(Begin),
}

const LONGEST_BEGIN: usize = 120;

/// The first bytes of a request that passes with these instead of its own.
#[derive(Debug)]
pub struct Begin {
    bytes: [u8; LONGEST_BEGIN],
    length: usize,
}

impl Begin {
    /// What stands in `data` up to `at`, and behind it the number.
    fn of(data: &[u8], at: usize, number: i32) -> Option<Begin> {
        let (mut bytes, length) = ([0; LONGEST_BEGIN], at + 4);
        bytes.get_mut(..at)?.copy_from_slice(data.get(..at)?);
        bytes.get_mut(at..length)?.copy_from_slice(&number.to_be_bytes());
        Some(Begin { bytes, length })
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }
}

impl Session {
    /// True when so many bytes from the client pass whatever they are, and then they have: they are of a request that
    /// was judged.
    pub fn pass_rest(&mut self, count: usize) -> bool {
        match self.body {
            Body::Pass(left) if left >= count && left > 0 && self.hold.is_empty() => {
                self.body = Body::Pass(left - count);
                true
            }
            _ => false,
        }
    }

    /// The usual case, cheaply: `count` bytes that begin with `begin` are one request, or the begin of one, which is
    /// allowed and goes on as it is, but for its begin at most. `Glance::Unsaid` changes nothing: see `from_client`.
    pub fn pass_request(&mut self, begin: &[u8], count: usize) -> Glance {
        let between = !matches!(self.body, Body::Pass(left) | Body::Drop(left) if left > 0) && self.hold.is_empty();
        let current = self.policy.is_some() && self.generation == self.published.generation();
        if !between || !current || self.is_paused() {
            return Glance::Unsaid;
        }
        if let Some(last) = &self.last_produce {
            match last.again(self.generation, begin) {
                Some(again) if again.total >= count => {
                    self.begin_to_pass(again.correlation, again.answered, again.total - count);
                    return Glance::Pass;
                }
                _ => {}
            }
        }
        let frame = match look(begin) {
            Seen::Frame(frame) if frame.total >= count => frame,
            _ => return Glance::Unsaid,
        };
        let api = match self.tables.api(frame.key) {
            Some(api) if api.knows(frame.version) && !matches!(frame.key, METADATA | API_VERSIONS) => api,
            _ => return Glance::Unsaid,
        };
        let mut asked = Asked::default();
        let read = match frame.body(api, begin) {
            Ok(mut reader) => api.read(frame.version, &mut reader, &mut asked),
            Err(trouble) => Err(trouble),
        };
        match read {
            Ok(()) => {}
            Err(Trouble::Short) if frame.key == PRODUCE && asked.names_whole() => {}
            Err(_) => return Glance::Unsaid,
        }
        let request = Request {
            key: frame.key,
            version: frame.version,
            client: frame.client,
        };
        if (frame.key == FETCH && asked.session != 0) || self.judge(request, &asked).is_err() {
            return Glance::Unsaid;
        }
        let glance = match asked.epoch_at {
            Some(at) if frame.key == FETCH => match Begin::of(begin, at, NO_SESSION) {
                Some(begin) => Glance::Begin(begin),
                None => return Glance::Unsaid,
            },
            _ => Glance::Pass,
        };
        if frame.key == PRODUCE {
            self.last_produce = LastProduce::of(self.generation, api.is_flexible(frame.version), begin, &frame, &asked);
        }
        let answered = !(frame.key == PRODUCE && asked.acks == Some(0));
        self.begin_to_pass(frame.correlation, answered, frame.total - count);
        glance
    }

    #[inline]
    fn begin_to_pass(&mut self, correlation: i32, answered: bool, left: usize) {
        if answered {
            self.queue.push(correlation, Waits::Plain);
        }
        self.asked_names = false;
        self.body = Body::Pass(left);
    }

    /// True when so many bytes from the server pass whatever they are, and then they have: see `Queue`.
    pub fn pass_rest_of_response(&mut self, count: usize) -> bool {
        self.queue.pass_rest(count)
    }

    /// True when `count` bytes that begin with `begin` are one response, or the begin of one, that goes on as it is, and
    /// then they have passed. False changes nothing: see `from_server`.
    pub fn pass_response(&mut self, begin: &[u8], count: usize) -> bool {
        self.queue.pass_response(begin, count)
    }
}
