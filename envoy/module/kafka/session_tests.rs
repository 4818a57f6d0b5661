//! Tests of `session` with requests as clients write them.

use super::policy::{End, Ends, Policy};
use super::published::Published;
use super::session::{Glance, Out, Piece, Session, Tables};

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

fn publish(published: &Published, rules: &[&str]) {
    published.publish(Policy::read(policy(rules).as_bytes()).unwrap());
}

pub fn policy(rules: &[&str]) -> String {
    let rules: String = rules.iter().map(|rule| format!("rule {}\n", rule)).collect();
    format!("{}{}{}", HEAD, rules, TAIL)
}

fn session(published: &'static Published) -> Session {
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
fn begun(published: &'static Published) -> Session {
    let mut session = session(published);
    session.from_client(&produce(0, 0, &["orders"], 1));
    session
}

/// A request with header 1: key, version, correlation id, client "app".
fn request(key: i16, version: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
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

fn response(correlation: i32, body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as i32 + 4).to_be_bytes().to_vec();
    out.extend(correlation.to_be_bytes());
    out.extend(body);
    out
}

fn text(name: &str) -> Vec<u8> {
    let mut out = (name.len() as i16).to_be_bytes().to_vec();
    out.extend(name.as_bytes());
    out
}

/// Produce version 2: acks, timeout, topics with one partition each.
fn produce(correlation: i32, acks: i16, topics: &[&str], size: usize) -> Vec<u8> {
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

fn allow_orders() -> &'static Published {
    published(&["0,3,18|||orders"])
}

#[test]
fn an_allowed_request_passes_as_it_came() {
    let mut session = session(allow_orders());
    let data = produce(1, 1, &["orders"], 10);
    let out = session.from_client(&data);
    assert_eq!(out.pieces[..], [Piece::Same(data.len())]);
    assert!(out.answer.is_empty() && out.close.is_none());
    let answer = response(1, b"whatever");
    assert_eq!(passed(&answer, &session.from_server(&answer)), answer);
}

#[test]
fn a_denied_request_is_answered_in_place_and_the_connection_goes_on() {
    let mut session = session(allow_orders());
    let denied = produce(1, 1, &["secret"], 10);
    let out = session.from_client(&denied);
    assert!(passed(&denied, &out).is_empty());
    // topics[secret: partition 7, error 29, offset -1, time -1], throttle 0
    let mut body = 1_i32.to_be_bytes().to_vec();
    body.extend(text("secret"));
    body.extend(1_i32.to_be_bytes());
    body.extend(7_i32.to_be_bytes());
    body.extend(29_i16.to_be_bytes());
    body.extend((-1_i64).to_be_bytes());
    body.extend((-1_i64).to_be_bytes());
    body.extend(0_i32.to_be_bytes());
    assert_eq!(out.answer, response(1, &body));
    assert_eq!(out.denials[0].topics, [b"secret".to_vec()]);
    assert_eq!((out.denials[0].name.as_str(), out.denials[0].code), ("unmatched", 29));
    let allowed = produce(2, 1, &["orders"], 10);
    assert_eq!(passed(&allowed, &session.from_client(&allowed)), allowed);
}

#[test]
fn every_topic_must_be_allowed() {
    let mut session = session(published(&["0|||a", "0|||b"]));
    let both = produce(1, 1, &["a", "b"], 5);
    assert_eq!(passed(&both, &session.from_client(&both)), both);
    let three = produce(2, 1, &["a", "b", "c"], 5);
    let out = session.from_client(&three);
    assert!(passed(&three, &out).is_empty());
    assert_eq!(out.denials[0].topics, [b"c".to_vec()]);
}

#[test]
fn a_denial_waits_behind_the_requests_before_it() {
    let mut session = session(allow_orders());
    let first = produce(1, 1, &["orders"], 5);
    session.from_client(&first);
    let denied = produce(2, 1, &["secret"], 5);
    assert!(session.from_client(&denied).answer.is_empty());
    let third = produce(3, 1, &["orders"], 5);
    session.from_client(&third);
    let (one, three) = (response(1, b"first"), response(3, b"third"));
    // The first answer comes in two pieces, the second one with the begin of the third.
    let out = session.from_server(&one[..9]);
    assert_eq!(passed(&one[..9], &out), &one[..9]);
    let mut rest = one[9..].to_vec();
    rest.extend(&three);
    let came = passed(&rest, &session.from_server(&rest));
    assert!(came.starts_with(&one[9..]) && came.ends_with(&three));
    assert_eq!(&came[one.len() - 9 + 4..][..4], 2_i32.to_be_bytes());
}

#[test]
fn nobody_answers_a_producer_that_wants_no_answer() {
    let mut session = session(allow_orders());
    let denied = produce(1, 0, &["secret"], 5);
    let out = session.from_client(&denied);
    assert!(passed(&denied, &out).is_empty() && out.answer.is_empty() && out.close.is_none());
    assert_eq!(out.denials.len(), 1);
    let allowed = produce(2, 0, &["orders"], 5);
    assert_eq!(passed(&allowed, &session.from_client(&allowed)), allowed);
    let asked = produce(3, 1, &["orders"], 5);
    session.from_client(&asked);
    let answer = response(3, b"x");
    assert_eq!(passed(&answer, &session.from_server(&answer)), answer);
}

#[test]
fn a_big_body_passes_as_soon_as_it_is_judged() {
    let mut session = session(allow_orders());
    let data = produce(1, 1, &["orders"], 10 << 20);
    let mut came = Vec::new();
    for chunk in data.chunks(1 << 16) {
        let out = session.from_client(chunk);
        assert_eq!(out.pieces[..], [Piece::Same(chunk.len())], "nothing is held or copied");
        came.extend(passed(chunk, &out));
    }
    assert!(came == data);
}

#[test]
fn what_is_usual_passes_at_a_glance() {
    let mut session = begun(published(&["|||orders"]));
    let big = produce(1, 1, &["orders"], 70_000);
    let (first, rest) = big.split_at(60_000);
    assert!(at_a_glance(&mut session, first, 16_384).as_deref() == Some(first));
    assert!(session.pass_rest(1_000) && session.pass_rest(rest.len() - 1_000) && !session.pass_rest(1));
    let asked = fetch(2, 0, 0, Some("orders"));
    let passed = at_a_glance(&mut session, &asked, asked.len()).unwrap();
    assert_eq!(passed, fetch(2, 0, -1, Some("orders")), "it begins no session");
    let answers = [response(1, b"x"), response(2, &[0; 5000])];
    assert!(session.pass_response(&answers[0], answers[0].len()));
    assert!(session.pass_response(&answers[1][..8], 3000) && !session.pass_rest_of_response(2009));
    assert!(session.pass_rest_of_response(2008) && !session.pass_response(&answers[1], 100));
}

#[test]
fn a_glance_sees_that_the_policy_has_changed() {
    let published = allow_orders();
    let mut session = begun(published);
    let data = produce(1, 0, &["orders"], 10);
    assert!(at_a_glance(&mut session, &data, data.len()).is_some());
    publish(published, &["0|||bills"]);
    assert_eq!(at_a_glance(&mut session, &data, data.len()), None);
    assert!(passed(&data, &session.from_client(&data)).is_empty());
    assert_eq!(at_a_glance(&mut session, &data, data.len()), None);
}

#[test]
fn a_glance_is_not_enough_for_what_is_not_usual() {
    let mut session = begun(published(&["|||orders"]));
    let allowed = produce(1, 1, &["orders"], 10);
    let two = [allowed.clone(), allowed.clone()].concat();
    let short = fetch(1, 0, 0, Some("orders"));
    let mut long = [&short[..12], &[0, 200], &[b'c'; 200], &short[17..]].concat();
    long[..4].copy_from_slice(&(short.len() as i32 - 4 + 197).to_be_bytes());
    for unusual in [
        &produce(1, 1, &["orders", "secret"], 10)[..],
        &two,
        &allowed[..20],
        &fetch(1, 7, 1, Some("orders")),
        &metadata(1, Some(&["orders"])),
        &api_versions(3),
        &long,
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
    ] {
        assert_eq!(at_a_glance(&mut session, unusual, unusual.len()), None);
    }
    // Nothing goes on while the client takes nothing, nor what stands within a request that is dropped.
    session.set_client_full(true);
    assert_eq!(at_a_glance(&mut session, &allowed, allowed.len()), None);
    session.set_client_full(false);
    let dropped = produce(3, 0, &["secret"], 1000);
    session.from_client(&dropped[..100]);
    assert_eq!(at_a_glance(&mut session, &allowed, allowed.len()), None);
    assert!(passed(&dropped[100..], &session.from_client(&dropped[100..])).is_empty());
    // An answer of ours goes out with the end of the response before it.
    assert!(at_a_glance(&mut session, &allowed, allowed.len()).is_some());
    let denied = produce(2, 1, &["secret"], 10);
    assert!(session.from_client(&denied).answer.is_empty());
    let answer = response(1, b"whatever");
    assert!(!session.pass_response(&answer, answer.len()));
    assert!(session.pass_response(&answer, 10) && !session.pass_rest_of_response(answer.len() - 10));
    assert!(passed(&answer[10..], &session.from_server(&answer[10..])).len() > 20);
    assert!(!session.pass_response(&answer, answer.len()), "nobody asked");
}

#[test]
fn a_byte_at_a_time_makes_no_difference() {
    for topic in ["orders", "secret"] {
        let data = produce(1, 1, &[topic], 300);
        let mut whole = session(allow_orders());
        let wanted = whole.from_client(&data);
        let mut session = session(allow_orders());
        let (mut came, mut answer) = (Vec::new(), Vec::new());
        for byte in data.chunks(1) {
            let out = session.from_client(byte);
            came.extend(passed(byte, &out));
            answer.extend(out.answer);
        }
        assert_eq!((came, answer), (passed(&data, &wanted), wanted.answer));
    }
}

#[test]
fn a_change_of_policy_counts_from_the_next_request_on() {
    let published = allow_orders();
    let mut session = session(published);
    let data = produce(1, 1, &["orders"], 5);
    assert_eq!(passed(&data, &session.from_client(&data)), data);
    publish(published, &["0|||other"]);
    assert!(passed(&data, &session.from_client(&data)).is_empty());
    publish(published, &["|||"]);
    assert_eq!(passed(&data, &session.from_client(&data)), data);
}

#[test]
fn without_a_policy_there_is_no_connection() {
    let published: &'static Published = Box::leak(Box::new(Published::new()));
    let out = session(published).from_client(&produce(1, 1, &["orders"], 5));
    assert_eq!(out.close.as_deref(), Some("lockgate:no-policy-received"));
}

/// Fetch version 7: replica, wait, min, max, isolation, session, epoch, topics, forgotten.
fn fetch(correlation: i32, session: i32, epoch: i32, topic: Option<&str>) -> Vec<u8> {
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

#[test]
fn no_fetch_leaves_out_what_it_asks_for() {
    let mut session = session(published(&["1|||orders"]));
    let data = fetch(1, 0, 0, Some("orders"));
    assert_eq!(
        passed(&data, &session.from_client(&data)),
        fetch(1, 0, -1, Some("orders")),
        "it begins no session"
    );
    let answer = response(1, b"");
    session.from_server(&answer);
    let incremental = fetch(2, 99, 1, None);
    let out = session.from_client(&incremental);
    assert!(passed(&incremental, &out).is_empty());
    // throttle 0, error 70, session 0, no topics
    let mut body = vec![0; 4];
    body.extend(70_i16.to_be_bytes());
    body.extend([0; 8]);
    assert_eq!(out.answer, response(2, &body));
}

/// Metadata version 1.
fn metadata(correlation: i32, topics: Option<&[&str]>) -> Vec<u8> {
    let mut body = topics.map_or(-1, |topics| topics.len() as i32).to_be_bytes().to_vec();
    for topic in topics.unwrap_or(&[]) {
        body.extend(text(topic));
    }
    request(3, 1, correlation, &body)
}

fn metadata_answer(correlation: i32, topics: &[(&str, i16)]) -> Vec<u8> {
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

#[test]
fn metadata_is_answered_topic_by_topic() {
    let mut session = session(allow_orders());
    let data = metadata(1, Some(&["orders", "secret"]));
    let out = session.from_client(&data);
    assert_eq!(passed(&data, &out), metadata(1, Some(&["orders"])));
    assert_eq!(out.denials[0].topics, [b"secret".to_vec()]);
    let answer = metadata_answer(1, &[("orders", 0)]);
    let came = passed(&answer, &session.from_server(&answer));
    assert_eq!(came, metadata_answer(1, &[("orders", 0), ("secret", 29)]));
}

#[test]
fn a_list_of_all_topics_holds_those_that_are_allowed() {
    let mut session = session(allow_orders());
    let data = metadata(1, None);
    assert_eq!(passed(&data, &session.from_client(&data)), data);
    let answer = metadata_answer(1, &[("secret", 0), ("orders", 0), ("other", 0)]);
    let mut came = Vec::new();
    for byte in answer.chunks(1) {
        came.extend(passed(byte, &session.from_server(byte)));
    }
    assert_eq!(came, metadata_answer(1, &[("orders", 0)]));
}

#[test]
fn metadata_of_nobody_allowed_is_refused_whole() {
    let mut session = session(published(&["0|||"]));
    let data = metadata(1, Some(&["orders"]));
    let out = session.from_client(&data);
    assert!(passed(&data, &out).is_empty());
    let mut body = vec![0; 4];
    body.extend((-1_i32).to_be_bytes());
    body.extend(1_i32.to_be_bytes());
    body.extend(29_i16.to_be_bytes());
    body.extend(text("orders"));
    body.extend([0; 5]);
    assert_eq!(out.answer, response(1, &body));
}

#[test]
fn what_cannot_be_judged_is_hidden() {
    let mut session = session(allow_orders());
    let asked = request(18, 0, 1, b"");
    assert_eq!(passed(&asked, &session.from_client(&asked)), asked);
    let list = |apis: &[(i16, i16, i16)]| {
        let mut body = vec![0, 0];
        body.extend((apis.len() as i32).to_be_bytes());
        for (key, first, last) in apis {
            body.extend(key.to_be_bytes());
            body.extend(first.to_be_bytes());
            body.extend(last.to_be_bytes());
        }
        response(1, &body)
    };
    // These are listed in docs/kafka.md.
    let hidden = [
        4, 5, 6, 7, 27, 34, 38, 39, 40, 41, 49, 51, 56, 57, 64, 67, 71, 72, 74, 75, 76, 77, 78, 79,
    ];
    let mut offered = vec![(0, 3, 99), (3, 0, 5), (17, 0, 1), (24, 4, 5)];
    offered.extend(hidden.iter().map(|key| (*key, 0, 1)));
    let answer = list(&offered);
    let came = passed(&answer, &session.from_server(&answer));
    assert_eq!(came, list(&[(0, 3, 13), (3, 0, 5), (17, 1, 1)]));
    for key in hidden {
        let mut session = self::session(allow_orders());
        let asked = request(key, 0, 2, b"");
        let out = session.from_client(&asked);
        assert!(out.close.is_some() && passed(&asked, &out).is_empty(), "{}", key);
    }
}

#[test]
fn a_server_that_cannot_say_its_versions_is_asked_in_the_first_one() {
    let mut session = session(allow_orders());
    let asked = api_versions(3);
    assert_eq!(passed(&asked, &session.from_client(&asked)), asked);
    // As librdkafka's mock cluster has it: the old code, and then neither the old form nor the new one.
    let answer = response(1, &[0, 35, 1, 0, 18, 0, 0, 0, 2, 0, 0, 0, 0]);
    let came = passed(&answer, &session.from_server(&answer));
    assert_eq!(came, response(1, &[0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 0]));
}

fn api_versions(version: i16) -> Vec<u8> {
    let mut asked = request(18, version, 1, b"");
    asked.extend([0, 2, b'x', 2, b'1', 0]);
    let length = (asked.len() - 4) as i32;
    asked[..4].copy_from_slice(&length.to_be_bytes());
    asked
}

#[test]
fn a_newer_way_to_ask_for_versions_is_answered_here() {
    let mut session = session(allow_orders());
    let asked = request(18, 9, 5, b"whatever");
    let out = session.from_client(&asked);
    assert!(passed(&asked, &out).is_empty());
    assert_eq!(out.answer, response(5, &[0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4]));
}

#[test]
fn an_api_that_cannot_be_judged_passes_only_where_everything_does() {
    let unknown = request(99, 0, 1, b"?");
    let mut closed = session(allow_orders());
    assert!(closed.from_client(&unknown).close.is_some());
    let mut open = session(published(&["|||"]));
    assert_eq!(passed(&unknown, &open.from_client(&unknown)), unknown);
}

#[test]
fn what_is_no_kafka_ends_the_connection() {
    for data in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &i32::MAX.to_be_bytes(),
        &[0, 0, 0, 1, 0],
        &[0xff; 64],
        &request(0, 2, 1, b""),
        &request(0, 2, 1, &[0xff; 40]),
    ] {
        let out = session(allow_orders()).from_client(data);
        assert!(out.close.is_some(), "{:?}", data);
        assert!(passed(data, &out).is_empty());
    }
}

#[test]
fn a_server_that_answers_out_of_order_is_not_believed() {
    let mut session = session(allow_orders());
    assert!(session.from_server(&response(1, b"")).close.is_some());
    let mut session = self::session(allow_orders());
    session.from_client(&produce(1, 1, &["orders"], 5));
    assert!(session.from_server(&response(2, b"")).close.is_some());
}

#[test]
fn requests_without_an_answer_are_bounded() {
    let mut session = session(allow_orders());
    let mut data = Vec::new();
    for number in 0..10_000 {
        data.extend(produce(number, 1, &["orders"], 5));
    }
    let out = session.from_client(&data);
    let one = produce(0, 1, &["orders"], 5).len();
    assert_eq!(passed(&data, &out).len(), 1000 * one);
    assert!(session.is_paused() && !session.can_resume());
    let mut came = 1000;
    let mut answered = 0;
    while answered < 10_000 {
        let answer = response(answered, b"");
        assert!(session.from_server(&answer).close.is_none());
        answered += 1;
        while session.can_resume() {
            came += passed(&[], &session.from_client(&[])).len() / one;
        }
        assert!(came as i32 - answered <= 1000);
    }
    assert_eq!(came, 10_000);
}

#[test]
fn answers_that_wait_are_bounded_too() {
    let mut session = session(allow_orders());
    session.from_client(&produce(0, 1, &["orders"], 5));
    let names: Vec<String> = (0..2000).map(|number| format!("{:0>200}", number)).collect();
    let topics: Vec<&str> = names.iter().map(String::as_str).collect();
    for number in 1..100 {
        session.from_client(&produce(number, 1, &topics, 0));
        if session.is_paused() {
            assert!(number < 20);
            return;
        }
    }
    panic!("4 MiB of answers wait, and more are made");
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let mut session = session(allow_orders());
    session.set_client_full(true);
    let denied = produce(1, 1, &["secret"], 5);
    assert!(session.from_client(&denied).answer.is_empty());
    session.set_client_full(false);
    assert!(session.can_resume());
    assert!(!session.from_client(&[]).answer.is_empty());
}

#[test]
fn a_count_of_what_is_not_there_costs_nothing() {
    let mut session = session(allow_orders());
    // CreateTopics version 0 with 25 million replicas announced.
    let mut body = 1_i32.to_be_bytes().to_vec();
    body.extend(text("orders"));
    body.extend([0; 6]);
    body.extend(1_i32.to_be_bytes());
    body.extend(0_i32.to_be_bytes());
    body.extend(25_000_000_i32.to_be_bytes());
    let mut data = request(19, 0, 1, &body);
    data[..4].copy_from_slice(&(100_i32 << 20).to_be_bytes());
    let out = session.from_client(&data);
    assert!(out.close.is_none() && passed(&data, &out).is_empty());
}

#[test]
fn a_request_too_long_to_be_judged_ends_the_connection() {
    let mut session = session(allow_orders());
    let data = produce(1, 1, &["a", "b"], 17 << 20);
    let mut closed = None;
    for chunk in data.chunks(1 << 20) {
        let out = session.from_client(chunk);
        assert!(passed(chunk, &out).is_empty());
        closed = closed.or(out.close);
    }
    assert_eq!(closed.as_deref(), Some("a request too long to be judged"));
}

/// DeleteTopics version 6 by id: a name has to be found first.
fn delete_by_id(correlation: i32, id: u8) -> Vec<u8> {
    let mut body = vec![0, 2, 0];
    body.extend([id; 16]);
    body.extend([0, 0, 0, 0, 0, 0]);
    request(20, 6, correlation, &body)
}

/// The answer to a question for names: no brokers, one topic.
fn names_answer(id: u8, name: &str) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 2, 0, 0];
    body.push(name.len() as u8 + 1);
    body.extend(name.as_bytes());
    body.extend([id; 16]);
    body.extend([0, 1, 0x80, 0, 0, 0, 0, 0]);
    response(0x4c47_0001, &body)
}

#[test]
fn a_topic_by_id_is_judged_by_the_name_that_its_server_gives_it() {
    for (name, allowed) in [("orders", true), ("secret", false)] {
        let mut session = session(published(&["20|||orders"]));
        let data = delete_by_id(7, 5);
        let out = session.from_client(&data);
        let question = passed(&data, &out);
        assert_eq!(&question[4..8], [0, 3, 0, 12], "Metadata goes first");
        assert!(session.is_paused());
        let answer = names_answer(5, name);
        let out = session.from_server(&answer);
        assert!(out.close.is_none(), "{:?}", out.close);
        assert!(passed(&answer, &out).is_empty(), "the client knows nothing of it");
        assert!(session.can_resume());
        let out = session.from_client(&[]);
        assert_eq!(passed(&[], &out), if allowed { data.clone() } else { Vec::new() });
        assert_eq!(out.answer.is_empty(), allowed);
        if allowed {
            session.from_server(&response(7, b"\0"));
            assert_eq!(passed(&data, &session.from_client(&data)), data, "it is remembered");
        }
    }
}

#[test]
fn a_repeated_produce_is_judged_by_the_name_that_its_topic_has_now() {
    let mut session = begun(published(&["|||orders"]));
    let by_id = |correlation, id: u8| {
        let body = [
            &[0, 0xff, 0xff, 0, 0, 0, 0, 2][..],
            &[id; 16],
            &[2, 0, 0, 0, 0, 3, 0xab, 0xab, 0, 0, 0],
        ]
        .concat();
        request(0, 13, correlation, &[&[0], &body[..]].concat())
    };
    session.from_client(&by_id(1, 9));
    session.from_server(&names_answer(9, "orders"));
    session.from_client(&[]);
    for correlation in 2..4 {
        let again = by_id(correlation, 9);
        assert!(at_a_glance(&mut session, &again, again.len()).is_some());
    }
    // Its server says of another question that the id has another name.
    session.from_client(&by_id(4, 8));
    for correlation in 1..4 {
        session.from_server(&response(correlation, b""));
    }
    session.from_server(&names_answer(9, "secret"));
    session.from_client(&[]);
    let again = by_id(5, 9);
    assert_eq!(at_a_glance(&mut session, &again, again.len()), None);
}

#[test]
fn a_topic_by_id_that_nobody_knows_is_unknown() {
    let mut session = session(published(&["20|||orders"]));
    session.from_client(&delete_by_id(7, 5));
    let answer = names_answer(6, "orders");
    session.from_server(&answer);
    let out = session.from_client(&[]);
    assert!(passed(&[], &out).is_empty());
    assert!(out.answer.windows(2).any(|pair| pair == [0, 100]));
}

#[test]
fn what_stands_behind_a_metadata_response_passes_with_it() {
    let mut session = session(allow_orders());
    let asked = request(3, 1, 1, &[0, 0, 0, 1, 0, 6, b's', b'e', b'c', b'r', b'e', b't']);
    session.from_client(&asked);
    // No brokers, controller 1, no topics, and a byte that nobody has defined.
    let answer = response(1, &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 9]);
    let came = passed(&answer, &session.from_server(&answer));
    assert_eq!(came.last(), Some(&9));
    assert!(came.windows(6).any(|part| part == b"secret"));
}
