//! What the filter's tests stand on: policies, sessions, and requests and responses as clients and servers write them.

use super::policy::{End, Ends, Policy};
use super::published::Published;
use super::schema::Tables;
use super::session::{Glance, Out, Piece, Session};

const HEAD: &str = "lockgate-kafka 1\nset\n";
const TAIL: &str = "half deny unmatched
ports 9092-9092
others set 0 unmatched
own ingress 7 0";

pub fn published(rules: &[&str]) -> &'static Published {
    let published: &'static Published = Box::leak(Box::new(Published::new()));
    publish(published, rules);
    published
}

pub fn publish(published: &Published, rules: &[&str]) {
    published.publish(Policy::read(policy(rules).as_bytes()).unwrap());
}

pub fn policy(rules: &[&str]) -> String {
    let rules: String = rules.iter().map(|rule| format!("rule {}\n", rule)).collect();
    format!("{}{}{}", HEAD, rules, TAIL)
}

pub fn session(published: &'static Published) -> Session {
    let end = |address: &str, identity, subject| End {
        address: address.parse().unwrap(),
        identity,
        subject,
    };
    let ends = Ends {
        source: end("10.0.0.1", 2, 0),
        destination: end("10.0.0.2", 7, 7),
        port: 9092,
    };
    Session::new(Tables::shared().unwrap(), published, ends)
}

/// One whose policy has been read, which the first request does.
pub fn begun(published: &'static Published) -> Session {
    let mut session = session(published);
    session.from_client(&produce(0, 0, &["orders"], 1));
    session
}

/// A request with header 1: key, version, correlation id, client "app".
pub fn request(key: i16, version: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend(key.to_be_bytes());
    out.extend(version.to_be_bytes());
    out.extend(correlation.to_be_bytes());
    out.extend([0, 3]);
    out.extend(b"app");
    out.extend(body);
    let length = (out.len() - 4) as i32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

pub fn response(correlation: i32, body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as i32 + 4).to_be_bytes().to_vec();
    out.extend(correlation.to_be_bytes());
    out.extend(body);
    out
}

pub fn text(name: &str) -> Vec<u8> {
    let mut out = (name.len() as i16).to_be_bytes().to_vec();
    out.extend(name.as_bytes());
    out
}

/// Produce version 2: acks, timeout, topics with one partition each.
pub fn produce(correlation: i32, acks: i16, topics: &[&str], size: usize) -> Vec<u8> {
    let mut body = acks.to_be_bytes().to_vec();
    body.extend(1000_i32.to_be_bytes());
    body.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        body.extend(text(topic));
        body.extend(1_i32.to_be_bytes());
        body.extend(7_i32.to_be_bytes());
        body.extend((size as i32).to_be_bytes());
        body.extend(vec![0xab; size]);
    }
    request(0, 2, correlation, &body)
}

/// What comes out of the other side.
pub fn passed(data: &[u8], out: &Out) -> Vec<u8> {
    let mut at = 0;
    let mut passed = Vec::new();
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
    assert_eq!(at, data.len(), "every byte is accounted for");
    passed
}

/// What comes out when a glance says it, of a buffer whose first chunk has `shown` bytes.
pub fn at_a_glance(session: &mut Session, data: &[u8], shown: usize) -> Option<Vec<u8>> {
    if session.pass_rest(data.len()) {
        return Some(data.to_vec());
    }
    match session.pass_request(&data[..shown], data.len()) {
        Glance::Unsaid => None,
        Glance::Pass => Some(data.to_vec()),
        Glance::Begin(begin) => Some([begin.bytes(), &data[begin.bytes().len()..]].concat()),
    }
}

pub fn allow_orders() -> &'static Published {
    published(&["0,3,18|||orders"])
}

/// Fetch version 7: replica, wait, min, max, isolation, session, epoch, topics, forgotten.
pub fn fetch(correlation: i32, session: i32, epoch: i32, topic: Option<&str>) -> Vec<u8> {
    let mut body = vec![0; 16];
    body.push(0);
    body.extend(session.to_be_bytes());
    body.extend(epoch.to_be_bytes());
    body.extend((topic.is_some() as i32).to_be_bytes());
    if let Some(topic) = topic {
        body.extend(text(topic));
        body.extend(1_i32.to_be_bytes());
        body.extend([0; 4 + 8 + 8 + 4]);
    }
    body.extend(0_i32.to_be_bytes());
    request(1, 7, correlation, &body)
}

/// Metadata version 1.
pub fn metadata(correlation: i32, topics: Option<&[&str]>) -> Vec<u8> {
    let mut body = topics.map_or(-1, |topics| topics.len() as i32).to_be_bytes().to_vec();
    for topic in topics.unwrap_or(&[]) {
        body.extend(text(topic));
    }
    request(3, 1, correlation, &body)
}

pub fn metadata_answer(correlation: i32, topics: &[(&str, i16)]) -> Vec<u8> {
    let mut body = 1_i32.to_be_bytes().to_vec();
    body.extend(1_i32.to_be_bytes());
    body.extend(text("host"));
    body.extend(9092_i32.to_be_bytes());
    body.extend((-1_i16).to_be_bytes());
    body.extend(1_i32.to_be_bytes());
    body.extend((topics.len() as i32).to_be_bytes());
    for (topic, code) in topics {
        body.extend(code.to_be_bytes());
        body.extend(text(topic));
        body.push(0);
        body.extend(0_i32.to_be_bytes());
    }
    response(correlation, &body)
}

pub fn api_versions(version: i16) -> Vec<u8> {
    let mut asked = request(18, version, 1, b"");
    asked.extend([0, 2, b'x', 2, b'1', 0]);
    let length = (asked.len() - 4) as i32;
    asked[..4].copy_from_slice(&length.to_be_bytes());
    asked
}

/// DeleteTopics version 6 by id: a name has to be found first.
pub fn delete_by_id(correlation: i32, id: u8) -> Vec<u8> {
    let mut body = vec![0, 2, 0];
    body.extend([id; 16]);
    body.extend([0, 0, 0, 0, 0, 0]);
    request(20, 6, correlation, &body)
}

/// The answer to a question for names: no brokers, one topic.
pub fn names_answer(id: u8, name: &str) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 2, 0, 0];
    body.push(name.len() as u8 + 1);
    body.extend(name.as_bytes());
    body.extend([id; 16]);
    body.extend([0, 1, 0x80, 0, 0, 0, 0, 0]);
    response(0x4c47_0001, &body)
}
