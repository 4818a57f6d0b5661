//! The Kafka filter's session as a program, for tests in Python: commands on standard input, what came of them on output.
//!
//! A command is a letter, a length and so many bytes: P a policy, C a new connection (two identities and a port), c bytes of
//! the client, s bytes of the server. c and s are answered with four texts, each after its length: what passes, what the
//! client is answered, why the connection ends, and the denials (`NAME TOPIC,...` a line).
#![allow(dead_code, unused_imports)]

#[path = "../../../envoy/module/kafka/apis.rs"]
mod apis;
#[path = "../../../envoy/module/kafka/few.rs"]
mod few;
#[path = "../../../envoy/module/kafka/frame.rs"]
mod frame;
#[path = "../../../envoy/module/kafka/last_produce.rs"]
mod last_produce;
#[path = "../../../envoy/module/kafka/policy.rs"]
mod policy;
#[path = "../../../envoy/module/kafka/published.rs"]
mod published;
#[path = "../../../envoy/module/kafka/queue.rs"]
mod queue;
#[path = "../../../envoy/module/kafka/rewrite.rs"]
mod rewrite;
#[path = "../../../envoy/module/kafka/rules.rs"]
mod rules;
#[path = "../../../envoy/module/kafka/schema/mod.rs"]
mod schema;
#[path = "../../../envoy/module/kafka/session/mod.rs"]
mod session;
#[path = "../../../envoy/module/kafka/wire.rs"]
mod wire;

use std::io::{stdin, stdout, Read, Write};

use policy::{End, Ends, Policy};
use published::Published;
use schema::Tables;
use session::{Out, Piece, Session};

static PUBLISHED: Published = Published::new();

fn command() -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stdin().read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let mut data = vec![0; length];
    stdin().read_exact(&mut data).ok()?;
    Some((head[0], data))
}

fn tell(data: &[u8], out: &Out) {
    let mut passed = Vec::new();
    let mut at = 0;
    for piece in out.pieces.iter() {
        match piece {
            Piece::Same(count) => {
                passed.extend(&data[at..at + count]);
                at += count;
            }
            Piece::Gone(count) => at += count,
            Piece::New(new) => passed.extend(new),
        }
    }
    let denials: Vec<String> = out
        .denials
        .iter()
        .map(|denial| format!("{} {}", denial.name, String::from_utf8_lossy(&denial.topics.join(&b','))))
        .collect();
    let close = out.close.clone().unwrap_or_default();
    for text in [&passed, &out.answer, close.as_bytes(), denials.join("\n").as_bytes()] {
        stdout().write_all(&(text.len() as u32).to_be_bytes()).unwrap();
        stdout().write_all(text).unwrap();
    }
    stdout().flush().unwrap();
}

fn main() {
    let tables = Tables::shared().unwrap();
    let mut session: Option<Session> = None;
    while let Some((letter, data)) = command() {
        match (letter, &mut session) {
            (b'P', _) => PUBLISHED.publish(Policy::read(&data).unwrap()),
            (b'C', _) => {
                let text = String::from_utf8(data).unwrap();
                let words: Vec<&str> = text.split(' ').collect();
                let number = |at: usize| words[at].parse().unwrap();
                let end = |address: &str, identity, subject| End {
                    address: address.parse().unwrap(),
                    identity,
                    subject,
                };
                let ends = Ends {
                    source: end("10.0.0.1", number(0), 0),
                    destination: end("10.0.0.9", number(1), number(1)),
                    port: words[2].parse().unwrap(),
                };
                session = Some(Session::new(tables, &PUBLISHED, ends));
            }
            (b'c', Some(session)) => tell(&data, &session.from_client(&data)),
            (b's', Some(session)) => tell(&data, &session.from_server(&data)),
            _ => panic!("{} is no command", letter),
        }
    }
}
