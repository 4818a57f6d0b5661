//! Tests of a session.

use super::super::ground::{
    allow_orders, api_versions, fetch, passed, produce, publish, published, request, response, session, text,
};
use super::super::published::Published;
use super::Piece;

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
