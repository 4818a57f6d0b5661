//! The session between Envoy's buffers.

use std::net::SocketAddr;

use crate::abi::{ConnectionEvent, CLOSE_FLUSH_WRITE, CLOSE_NO_FLUSH, EVENT_LOCAL_CLOSE, EVENT_REMOTE_CLOSE};
use crate::connection::Connection;
use crate::end::{self, DESTINATION, SOURCE};
use crate::network_hooks::{NetworkConfig, NetworkFilter, Step};

use super::denial_log;
use super::policy::{End, Ends, Policy};
use super::published::Published;
use super::schema::Tables;
use super::session::{Denial, Glance, Out, Piece, Session};

static PUBLISHED: Published = Published::new();

struct Config {
    tables: &'static Tables,
}

/// The configuration is the node's policy (see `policy`), put into force at once; an empty one changes nothing, so that
/// the default of a slot that waits for its policy takes none away.
pub fn config(text: &[u8]) -> Result<Box<dyn NetworkConfig>, String> {
    let tables = Tables::shared()?;
    if !text.is_empty() {
        PUBLISHED.publish(Policy::read(text)?);
    }
    Ok(Box::new(Config { tables }))
}

impl NetworkConfig for Config {
    fn new_filter(&self) -> Box<dyn NetworkFilter> {
        Box::new(Filter {
            tables: self.tables,
            session: None,
            source_port: 0,
            ends: None,
            holding: false,
            ended: false,
        })
    }
}

struct Filter {
    tables: &'static Tables,
    session: Option<Session>,
    source_port: u16,
    ends: Option<Ends>,
    holding: bool,
    ended: bool,
}

impl NetworkFilter for Filter {
    fn new_connection(&mut self, connection: &Connection) -> Step {
        let end = |address, key| {
            let (identity, here) = end::read(&connection.filter_state(key)?)?;
            Some(End {
                address,
                identity,
                subject: if here { identity } else { 0 },
            })
        };
        if let (Some((source, port)), Some((destination, to))) =
            (connection.remote_address(), connection.local_address())
        {
            if let (Some(source), Some(destination)) = (end(source, SOURCE), end(destination, DESTINATION)) {
                let ends = Ends {
                    source,
                    destination,
                    port: to,
                };
                self.source_port = port;
                self.ends = Some(ends);
                self.session = Some(Session::new(self.tables, &PUBLISHED, ends));
            }
        }
        Step::Continue
    }

    fn read(&mut self, connection: &Connection, length: usize, end: bool) -> Step {
        let session = match &mut self.session {
            Some(session) if !self.ended => session,
            _ => return self.finish(connection, "nobody knows who the connection is of"),
        };
        if session.pass_rest(length) {
            return Step::Continue;
        }
        match session.pass_request(connection.read_begin(length), length) {
            Glance::Unsaid => {}
            Glance::Pass => {
                self.brake(connection);
                return Step::Continue;
            }
            Glance::Begin(begin) => {
                connection.drain_read(begin.bytes().len());
                connection.prepend_read(begin.bytes());
                self.brake(connection);
                return Step::Continue;
            }
        }
        let work = Work::of(session, Side::Client, connection.read_chunks().iter(), length);
        if let Some(data) = &work.instead {
            connection.drain_read(length);
            connection.append_read(data);
        }
        if !work.answer.is_empty() {
            connection.inject_write(&work.answer, false);
        }
        self.tell(&work.denials);
        if let Some(reason) = &work.close {
            return self.finish(connection, reason);
        }
        self.brake(connection);
        // A server is connected to when there is something for it.
        match work.instead {
            Some(data) if data.is_empty() && !end => Step::Stop,
            _ => Step::Continue,
        }
    }

    fn write(&mut self, connection: &Connection, length: usize, _end: bool) -> Step {
        let session = match &mut self.session {
            Some(session) if !self.ended => session,
            _ => return Step::Continue,
        };
        if !session.pass_rest_of_response(length) && !session.pass_response(connection.write_begin(length), length) {
            let work = Work::of(session, Side::Server, connection.write_chunks().iter(), length);
            if let Some(data) = &work.instead {
                connection.drain_write(length);
                connection.append_write(data);
            }
            if let Some(reason) = &work.close {
                return self.finish(connection, reason);
            }
        }
        self.resume(connection, |answer| {
            connection.append_write(answer);
        });
        Step::Continue
    }

    fn event(&mut self, _connection: &Connection, event: ConnectionEvent) {
        self.ended |= event == EVENT_REMOTE_CLOSE || event == EVENT_LOCAL_CLOSE;
    }

    fn pressure(&mut self, connection: &Connection, high: bool) {
        if let Some(session) = &mut self.session {
            session.set_client_full(high);
        }
        if high {
            self.brake(connection);
        } else {
            self.resume(connection, |answer| connection.inject_write(answer, false));
        }
    }
}

impl Filter {
    /// Go on with requests that were held while there was no room for them.
    fn resume(&mut self, connection: &Connection, answer: impl Fn(&[u8])) {
        loop {
            let work = match &mut self.session {
                Some(session) if !self.ended && session.can_resume() => {
                    Work::of(session, Side::Client, std::iter::once(&[][..]), 0)
                }
                _ => break,
            };
            let data = work.instead.unwrap_or_default();
            if !data.is_empty() {
                connection.inject_read(&data, false);
            }
            if !work.answer.is_empty() {
                answer(&work.answer);
            }
            self.tell(&work.denials);
            if let Some(reason) = &work.close {
                self.finish(connection, reason);
                return;
            }
            if data.is_empty() && work.answer.is_empty() {
                break;
            }
        }
        self.brake(connection);
    }

    /// Read from the client only while there is room for what it sends.
    fn brake(&mut self, connection: &Connection) {
        let paused = self.session.as_ref().map_or(false, Session::is_paused) && !self.ended;
        if paused != self.holding {
            self.holding = paused;
            connection.read_disable(paused);
        }
    }

    fn tell(&self, denials: &[Denial]) {
        if denials.is_empty() {
            return;
        }
        if let (Some(ends), Some(session)) = (self.ends, &self.session) {
            for denial in denials {
                let api = self
                    .tables
                    .api(denial.key)
                    .map_or_else(|| denial.key.to_string(), |api| api.name.clone());
                let source = (
                    SocketAddr::new(ends.source.address, self.source_port),
                    ends.source.identity,
                );
                let destination = (
                    SocketAddr::new(ends.destination.address, ends.port),
                    ends.destination.identity,
                );
                let line = denial_log::line(denial, &api, source, destination);
                denial_log::write(session.log(), line);
            }
        }
    }

    fn finish(&mut self, connection: &Connection, reason: &str) -> Step {
        if !self.ended {
            self.ended = true;
            if let (Some(ends), Some(session)) = (self.ends, &self.session) {
                let source = (
                    SocketAddr::new(ends.source.address, self.source_port),
                    ends.source.identity,
                );
                let destination = (
                    SocketAddr::new(ends.destination.address, ends.port),
                    ends.destination.identity,
                );
                denial_log::write(session.log(), denial_log::closed(reason, source, destination));
            }
            let how = if self.session.is_some() {
                CLOSE_FLUSH_WRITE
            } else {
                CLOSE_NO_FLUSH
            };
            connection.close(how, &format!("lockgate-kafka: {}", reason));
        }
        Step::Stop
    }
}

/// Where bytes come from.
#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

impl Side {
    fn passes(self, session: &mut Session, count: usize) -> bool {
        match self {
            Side::Client => session.pass_rest(count),
            Side::Server => session.pass_rest_of_response(count),
        }
    }

    fn step(self, session: &mut Session, chunk: &[u8]) -> Out {
        match self {
            Side::Client => session.from_client(chunk),
            Side::Server => session.from_server(chunk),
        }
    }
}

/// What became of a buffer. `instead` is what shall be in it; None leaves it as it is.
#[derive(Default)]
struct Work {
    instead: Option<Vec<u8>>,
    answer: Vec<u8>,
    close: Option<String>,
    denials: Vec<Denial>,
}

impl Work {
    /// Pass the chunks, `length` bytes in all, to the session one by one. Nothing is copied while all of it may pass, and
    /// nothing is looked at once the rest may.
    fn of<'c>(
        session: &mut Session,
        side: Side,
        chunks: impl Iterator<Item = &'c [u8]> + Clone,
        length: usize,
    ) -> Work {
        let mut work = Work::default();
        if chunks.clone().map(<[u8]>::len).sum::<usize>() != length {
            work.instead = Some(Vec::new());
            work.close = Some("Envoy shows another buffer than it speaks of".to_string());
            return work;
        }
        let mut before = 0;
        for chunk in chunks.clone() {
            if work.instead.is_none() && before > 0 && side.passes(session, length - before) {
                break;
            }
            let out = side.step(session, chunk);
            let passes = matches!(&out.pieces[..], [Piece::Same(count)] if *count == chunk.len());
            if work.instead.is_none() && !passes {
                work.instead = Some(first(chunks.clone(), before));
            }
            if let Some(data) = &mut work.instead {
                let mut at = 0;
                for piece in out.pieces.iter() {
                    match piece {
                        Piece::Same(count) => {
                            data.extend_from_slice(chunk.get(at..at + count).unwrap_or(&[]));
                            at += count;
                        }
                        Piece::Gone(count) => at += count,
                        Piece::New(new) => data.extend_from_slice(new),
                    }
                }
            }
            work.answer.extend(out.answer);
            work.denials.extend(out.denials);
            if out.close.is_some() {
                work.close = out.close;
                break;
            }
            before += chunk.len();
        }
        work
    }
}

/// The first `length` bytes of the chunks.
fn first<'c>(chunks: impl Iterator<Item = &'c [u8]>, length: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(length);
    for chunk in chunks {
        let count = chunk.len().min(length - data.len());
        data.extend_from_slice(chunk.get(..count).unwrap_or(&[]));
    }
    data
}
