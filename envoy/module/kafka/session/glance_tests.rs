//! Tests of what passes at a glance.

use super::super::ground::{
    allow_orders, api_versions, at_a_glance, begun, fetch, metadata, names_answer, passed, produce, publish, published,
    request, response,
};

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
