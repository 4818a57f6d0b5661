//! What may come after the greeting that was judged, as a state machine.

use super::hello::{server_name, Answer, CLIENT_HELLO, SERVER_HELLO};
use super::record::{Message, Piece, Records, CHANGE_CIPHER_SPEC, HANDSHAKE};

const HELLO_REQUEST: u8 = 0; // a server of TLS 1.2 may send it at any time

/// Why a connection is not carried any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not read as Envoy has read it.
    Unreadable,
    /// The client greets again before it is asked to.
    Unasked,
    AnotherName,
    Renegotiation,
}

impl Fault {
    /// For the access log (GREETING in envoy/config/access_log.py).
    pub fn details(self) -> &'static str {
        match self {
            Fault::Unreadable => "lockgate:greeting:unreadable",
            Fault::Unasked => "lockgate:greeting:unasked",
            Fault::AnotherName => "lockgate:greeting:another-server-name",
            Fault::Renegotiation => "lockgate:greeting:renegotiation",
        }
    }
}

enum State {
    /// The client's first greeting, which has been judged by this name.
    Greeting(Vec<u8>),
    /// It is whole; the server has not answered. What the server says is read as long as it may be an answer.
    Greeted(Vec<u8>),
    /// The server wants another greeting.
    Again(Vec<u8>),
    /// TLS 1.2 or older: the client's handshake messages are not encrypted yet; its keys are in use; its first
    /// handshake is over.
    Plain,
    Sealed,
    Finished,
    /// Nothing can change the name any more.
    Over,
}

pub struct Watch {
    state: State,
    client: (Records, Message),
    server: Option<(Records, Message)>,
}

impl Watch {
    /// Of a connection that was judged by `name`, in lower case.
    pub fn of(name: &[u8]) -> Watch {
        Watch {
            state: State::Greeting(name.to_vec()),
            client: Default::default(),
            server: Some(Default::default()),
        }
    }

    /// Of one that was not judged by a name.
    pub fn nothing() -> Watch {
        Watch {
            state: State::Over,
            client: Default::default(),
            server: None,
        }
    }

    /// Nothing of the client's need be shown any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// What the server says matters.
    pub fn awaits_server(&self) -> bool {
        matches!(self.state, State::Greeted(_)) && self.server.is_some()
    }

    /// The client's next bytes, which must not go on to the server when this is an error.
    pub fn client(&mut self, mut data: &[u8]) -> Result<(), Fault> {
        while !self.is_over() {
            match self.client.0.next(&mut data).map_err(|_| Fault::Unreadable)? {
                Some(piece) => self.said(piece)?,
                None => break,
            }
        }
        Ok(())
    }

    fn said(&mut self, piece: Piece) -> Result<(), Fault> {
        if piece.kind == CHANGE_CIPHER_SPEC && matches!(self.state, State::Plain) {
            self.state = State::Sealed;
        }
        if piece.kind != HANDSHAKE {
            return match self.state {
                State::Greeting(_) => Err(Fault::Unreadable),
                _ => Ok(()),
            };
        }
        match &self.state {
            State::Greeting(judged) => {
                let judged = judged.clone();
                if let Some(name) = self.greeted(piece.bytes)? {
                    if !name.eq_ignore_ascii_case(&judged) {
                        return Err(Fault::Unreadable);
                    }
                    self.state = State::Greeted(name);
                }
                Ok(())
            }
            State::Greeted(_) => Err(Fault::Unasked),
            State::Again(judged) => {
                let judged = judged.clone();
                match self.greeted(piece.bytes)? {
                    Some(name) if name != judged => Err(Fault::AnotherName),
                    Some(_) => {
                        self.state = State::Over;
                        Ok(())
                    }
                    None => Ok(()),
                }
            }
            // Its Finished is one record.
            State::Sealed if piece.first => {
                self.state = State::Finished;
                Ok(())
            }
            State::Finished if piece.first => Err(Fault::Renegotiation),
            _ => Ok(()),
        }
    }

    /// The name of the greeting, once it is whole.
    fn greeted(&mut self, mut bytes: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        match self.client.1.add(&mut bytes).map_err(|_| Fault::Unreadable)? {
            Some((CLIENT_HELLO, hello)) if bytes.is_empty() => match server_name(&hello) {
                Some(name) => Ok(Some(name.to_vec())),
                None => Err(Fault::AnotherName),
            },
            Some(_) => Err(Fault::Unreadable),
            None => Ok(None),
        }
    }

    /// The server's next bytes. What is no answer to a greeting is left to the client: it cannot greet again then.
    pub fn server(&mut self, mut data: &[u8]) {
        while let (State::Greeted(name), Some((records, message))) = (&self.state, &mut self.server) {
            let mut handshake = match records.next(&mut data) {
                Ok(Some(piece)) if piece.kind == HANDSHAKE => piece.bytes,
                Ok(Some(_)) => continue,
                Ok(None) => break,
                Err(_) => {
                    self.server = None;
                    break;
                }
            };
            while !handshake.is_empty() {
                let answer = match message.add(&mut handshake) {
                    Ok(None) => break,
                    Ok(Some((HELLO_REQUEST, _))) => continue,
                    Ok(Some((SERVER_HELLO, hello))) => Answer::read(&hello),
                    _ => None,
                };
                self.server = None;
                match answer {
                    Some(Answer::Again) => self.state = State::Again(name.clone()),
                    Some(Answer::Modern) => self.state = State::Over,
                    Some(Answer::Old) => self.state = State::Plain,
                    None => {}
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hello::tests::{client_hello, server_hello};
    use super::*;

    const NAME: &[u8] = b"a.example";

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind][..], &(body.len() as u32).to_be_bytes()[1..], body].concat()
    }

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind, 3, 3][..], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    fn hello(name: &str) -> Vec<u8> {
        record(HANDSHAKE, &message(CLIENT_HELLO, &client_hello(&[&[name]])))
    }

    fn answer(answer: Answer) -> Vec<u8> {
        record(HANDSHAKE, &message(SERVER_HELLO, &server_hello(answer)))
    }

    /// What comes of greetings and answers; the client's data in pieces of `step` bytes.
    fn after(before: Answer, data: &[u8], step: usize) -> Result<(), Fault> {
        let mut watch = Watch::of(NAME);
        watch.client(&hello("A.example"))?;
        assert!(watch.awaits_server());
        for byte in answer(before) {
            watch.server(&[byte]);
        }
        data.chunks(step).try_for_each(|part| watch.client(part))
    }

    #[test]
    fn the_first_greeting_is_read_as_envoy_has() {
        assert_eq!(Watch::of(NAME).client(&hello("a.EXAMPLE")), Ok(()));
        for name in ["b.example", "", "a.example."] {
            assert!(Watch::of(NAME).client(&hello(name)).is_err());
        }
        let two = message(CLIENT_HELLO, &client_hello(&[&["a.example"], &["b.example"]]));
        assert!(Watch::of(NAME).client(&record(HANDSHAKE, &two)).is_err());
        assert_eq!(
            Watch::of(NAME).client(&record(23, b"x")),
            Err(Fault::Unreadable),
            "data first"
        );
    }

    #[test]
    fn a_second_greeting_must_be_asked_for_and_name_the_same() {
        for step in [1, 3, 1000] {
            assert_eq!(after(Answer::Again, &hello("A.example"), step), Ok(()));
            let compatible = [record(20, b"\x01"), record(23, b"early"), hello("A.example")].concat();
            assert_eq!(after(Answer::Again, &compatible, step), Ok(()));
            let other = [record(20, b"\x01"), record(23, b"early"), hello("b.example")].concat();
            assert_eq!(after(Answer::Again, &other, step), Err(Fault::AnotherName));
            let none = record(HANDSHAKE, &message(CLIENT_HELLO, &client_hello(&[])));
            assert_eq!(after(Answer::Again, &none, step), Err(Fault::AnotherName));
        }
        let mut watch = Watch::of(NAME);
        let both = [hello("a.example"), hello("a.example")].concat();
        assert_eq!(watch.client(&both), Err(Fault::Unasked));
    }

    #[test]
    fn a_second_greeting_in_many_records() {
        let body = message(CLIENT_HELLO, &client_hello(&[&["b.example"]]));
        let data: Vec<u8> = body.chunks(5).flat_map(|part| record(HANDSHAKE, part)).collect();
        assert_eq!(after(Answer::Again, &data, 1000), Err(Fault::AnotherName));
        let two = [&body[..], &message(CLIENT_HELLO, &client_hello(&[&["a.example"]]))].concat();
        assert_eq!(
            after(Answer::Again, &record(HANDSHAKE, &two), 1000),
            Err(Fault::Unreadable)
        );
    }

    #[test]
    fn tls_1_3_needs_no_more_watching() {
        assert_eq!(after(Answer::Modern, b"whatever it is", 4), Ok(()));
    }

    #[test]
    fn nobody_greets_anew_in_tls_1_2() {
        let keys = record(HANDSHAKE, &message(16, b"key"));
        let begun = [
            keys,
            record(20, b"\x01"),
            record(HANDSHAKE, b"sealed"),
            record(23, b"data"),
        ]
        .concat();
        let again = [begun.clone(), record(HANDSHAKE, b"sealed too")].concat();
        for step in [1, 2, 1000] {
            assert_eq!(after(Answer::Old, &begun, step), Ok(()));
            assert_eq!(after(Answer::Old, &again, step), Err(Fault::Renegotiation));
        }
    }

    #[test]
    fn a_server_that_does_not_answer_is_not_greeted_again() {
        for said in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            &record(HANDSHAKE, &message(11, b"x")),
        ] {
            let mut watch = Watch::of(NAME);
            watch.client(&hello("a.example")).unwrap();
            watch.server(said);
            watch.server(&answer(Answer::Again));
            assert_eq!(watch.client(&record(21, b"\x02\x28")), Ok(()));
            assert_eq!(watch.client(&hello("a.example")), Err(Fault::Unasked));
        }
        let mut watch = Watch::of(NAME);
        watch.client(&hello("a.example")).unwrap();
        watch.server(&record(HANDSHAKE, &message(HELLO_REQUEST, b"")));
        watch.server(&answer(Answer::Again));
        assert_eq!(watch.client(&hello("a.example")), Ok(()));
    }

    #[test]
    fn what_was_not_judged_by_name_is_not_watched() {
        assert!(Watch::nothing().is_over());
        assert_eq!(Watch::nothing().client(b"anything"), Ok(()));
    }
}
