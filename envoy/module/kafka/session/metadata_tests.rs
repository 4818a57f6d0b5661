//! Tests of requests for Metadata, and of topics that are known by id.

use super::super::ground::{
    allow_orders, delete_by_id, metadata, metadata_answer, names_answer, passed, published, request, response, session,
    text,
};

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
