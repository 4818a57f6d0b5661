//! Requests and responses that nobody should send, from a seeded generator; `scripts/fuzz-kafka` runs it for long.
//!
//! LOCKGATE_FUZZ_RUNS connections are tried from LOCKGATE_FUZZ_SEED on. A connection is a few requests made from the
//! table, some of them damaged, cut into pieces at random; responses come back likewise.

use super::ground::{at_a_glance, passed, published, session};
use super::published::Published;
use super::schema::Tables;
use super::session::{Out, Piece, Session, OWN_CORRELATION};
use super::wire::{put_length, put_string};

const NAMES: [&str; 4] = ["orders", "secret", "bills", "x"];
const RUNS: u64 = 20_000;

/// xorshift64*: the same choices everywhere for one seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }
}

pub fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(otherwise)
}

pub fn sample(tables: &Tables, random: &mut Random, correlation: i32) -> Vec<u8> {
    let api = &tables.apis[random.below(tables.apis.len())];
    let version = api.first + random.below((api.last - api.first) as usize + 1) as i16;
    api.sample(version, correlation, &NAMES, &mut |limit| random.below(limit))
}

/// Produces as a producer sends them, one after the other: they differ in little but their records.
fn produce(random: &mut Random, correlation: i32) -> Vec<u8> {
    let version = [2, 9, 9, 13][random.below(4)];
    let flexible = version >= 9;
    let rarely = |random: &mut Random| random.below(12) == 0;
    let mut out = vec![0; 4];
    out.extend(0_i16.to_be_bytes());
    out.extend((version as i16).to_be_bytes());
    out.extend(correlation.to_be_bytes());
    put_string(&mut out, Some(if rarely(random) { b"other" } else { b"app" }), false);
    let tags = |random: &mut Random, out: &mut Vec<u8>| match (flexible, rarely(random)) {
        (true, true) => out.extend([1, 7, 1, random.below(256) as u8]),
        (true, false) => out.push(0),
        _ => {}
    };
    tags(random, &mut out);
    if version > 2 {
        put_string(&mut out, None, flexible);
    }
    out.extend((random.below(3) as i16 - 1).to_be_bytes());
    out.extend([0; 4]);
    let count = |random: &mut Random| 1 + usize::from(rarely(random));
    let topics = count(random);
    put_length(&mut out, Some(topics), flexible, true);
    for _ in 0..topics {
        match version {
            13 => out.extend([random.below(2) as u8; 16]),
            _ => put_string(&mut out, Some(NAMES[usize::from(rarely(random))].as_bytes()), flexible),
        }
        let parts = count(random);
        put_length(&mut out, Some(parts), flexible, true);
        for part in 0..parts - usize::from(rarely(random)) {
            out.extend((part as i32).to_be_bytes());
            let most = if rarely(random) { 3000 } else { 200 };
            let size = random.below(most);
            put_length(&mut out, Some(size), flexible, true);
            out.extend((0..size).map(|_| random.below(256) as u8));
            tags(random, &mut out);
        }
        tags(random, &mut out);
    }
    tags(random, &mut out);
    if rarely(random) {
        let last = out.len() - 1;
        out[last] = random.below(256) as u8;
    }
    let length = (out.len() as i32 - 4) + [0, 0, 0, 0, 0, 0, 1, 3, -1, -3][random.below(10)];
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

pub fn damage(data: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let at = random.below(data.len());
        match random.below(5) {
            0 => data[at] = random.below(256) as u8,
            1 => data[at] ^= 1 << random.below(8),
            2 => data.truncate(at),
            3 => data.insert(at, random.below(256) as u8),
            _ => {
                let extreme = [0x7f, 0xff, 0x80, 0x00][random.below(4)];
                data[at..].iter_mut().take(4).for_each(|byte| *byte = extreme);
            }
        }
        if data.is_empty() {
            return;
        }
    }
}

/// Feed it in pieces: what passed, what was answered, and whether the connection ended.
pub fn feed(session: &mut Session, data: &[u8], random: &mut Random) -> (Vec<u8>, Vec<u8>, bool) {
    let (mut through, mut answer) = (Vec::new(), Vec::new());
    let mut rest = data;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at((1 + random.below(700)).min(rest.len()));
        rest = behind;
        if let Some(came) = at_a_glance(session, piece, random.below(piece.len() + 1)) {
            through.extend(came);
            continue;
        }
        let out = session.from_client(piece);
        through.extend(passed(piece, &out));
        answer.extend(&out.answer);
        if out.close.is_some() {
            return (through, answer, true);
        }
    }
    (through, answer, false)
}

/// The whole frames at the head of a stream.
pub fn frames(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while stream.len() > 4 {
        let length = u32::from_be_bytes(stream[..4].try_into().unwrap()) as usize + 4;
        if length > stream.len() {
            break;
        }
        found.push(&stream[..length]);
        stream = &stream[length..];
    }
    found
}

/// By itself it passes too, at least when it comes in two pieces as it may have come: what stands behind the last topic
/// of a Produce may be anything. Or it needs the name of a topic first, or is our own question for one.
pub fn passes_alone(policy: &'static Published, frame: &[u8]) -> bool {
    let passes = |cut: usize| {
        let mut alone = session(policy);
        let (head, tail) = frame.split_at(cut);
        let length = bytes_of(&alone.from_client(head)) + bytes_of(&alone.from_client(tail));
        alone.is_paused() || length == frame.len()
    };
    is_own(frame) || (0..frame.len()).rev().any(passes)
}

fn is_own(frame: &[u8]) -> bool {
    frame.len() > 12 && frame[8..12] == OWN_CORRELATION.to_be_bytes()
}

fn bytes_of(out: &Out) -> usize {
    out.pieces
        .iter()
        .map(|piece| match piece {
            Piece::Same(count) => *count,
            Piece::Gone(_) => 0,
            Piece::New(new) => new.len(),
        })
        .sum()
}

#[test]
fn whatever_comes_only_what_is_allowed_passes() {
    let tables = Tables::shared().unwrap();
    let policies = [
        published(&["|||orders"]),
        published(&["0,3,18,22|||orders", "1,2,3,9,10|||bills"]),
        published(&["|||"]),
        published(&["|3||orders", "3|||"]),
        published(&[]),
    ];
    let (seed, runs) = (setting("LOCKGATE_FUZZ_SEED", 1), setting("LOCKGATE_FUZZ_RUNS", RUNS));
    let mut counts = [0_u64; 4]; // requests, damaged ones, connections ended, requests that passed
    for run in seed..seed + runs {
        let random = &mut Random(run.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let policy = policies[random.below(policies.len())];
        let mut session = session(policy);
        let mut stream = Vec::new();
        for number in 0..1 + random.below(6) {
            counts[0] += 1;
            let mut data = sample(&tables, random, number as i32 + 1);
            let damaged = random.below(3) == 0;
            if damaged {
                counts[1] += 1;
                damage(&mut data, random);
            }
            let (through, _, ended) = feed(&mut session, &data, random);
            stream.extend(through);
            if ended {
                counts[2] += 1;
                break;
            }
            if random.below(2) == 0 {
                let mut answer = vec![0, 0, 0, 0];
                answer.extend((number as i32 + 1).to_be_bytes());
                answer.extend((0..random.below(60)).map(|_| random.below(256) as u8));
                let length = (answer.len() - 4) as i32;
                answer[..4].copy_from_slice(&length.to_be_bytes());
                if random.below(3) == 0 {
                    damage(&mut answer, random);
                }
                let out = session.from_server(&answer);
                if out.close.is_some() {
                    break;
                }
                while session.can_resume() {
                    let out = session.from_client(&[]);
                    stream.extend(passed(&[], &out));
                }
            }
        }
        for frame in frames(&stream) {
            counts[3] += 1;
            assert!(
                passes_alone(policy, frame),
                "seed {}: alone it does not pass: {:?}",
                run,
                frame
            );
        }
    }
    println!(
        "{} requests ({} damaged), {} passed, {} connections ended",
        counts[0], counts[1], counts[3], counts[2]
    );
    assert!(counts.iter().all(|count| *count > 0 || runs < 100));
}

#[test]
fn how_it_is_cut_makes_no_difference() {
    let tables = Tables::shared().unwrap();
    let policy = published(&["|||orders", "3,18|||"]);
    for seed in 1..3000 {
        let random = &mut Random(seed << 8 | 1);
        let data = sample(&tables, random, 1);
        let whole = session(policy).from_client(&data);
        let (through, answer, ended) = feed(&mut session(policy), &data, random);
        assert_eq!(
            (through, answer, ended),
            (passed(&data, &whole), whole.answer, whole.close.is_some()),
            "seed {}",
            seed
        );
    }
}

/// Give both sessions the same buffer in two chunks, one of them at a glance if that is enough: what came out of them.
fn both(glancing: &mut Session, plain: &mut Session, data: &[u8], shown: usize, client: bool) -> [(Vec<u8>, Out); 2] {
    let chunk = |session: &mut Session, chunk: &[u8]| match client {
        true => session.from_client(chunk),
        false => session.from_server(chunk),
    };
    let whole = |session: &mut Session| {
        let mut out = chunk(session, &data[..shown]);
        let mut came = passed(&data[..shown], &out);
        if out.close.is_none() {
            let more = chunk(session, &data[shown..]);
            came.extend(passed(&data[shown..], &more));
            out.answer.extend(more.answer);
            out.close = more.close;
        }
        (came, out)
    };
    let glance = match client {
        true => at_a_glance(glancing, data, shown),
        false => (glancing.pass_rest_of_response(data.len()) || glancing.pass_response(&data[..shown], data.len()))
            .then(|| data.to_vec()),
    };
    let other = glance.map(|came| (came, Out::default()));
    [other.unwrap_or_else(|| whole(glancing)), whole(plain)]
}

#[test]
fn a_glance_makes_no_difference() {
    let tables = Tables::shared().unwrap();
    let rules: [&[&str]; 3] = [&["|||orders"], &["0,3,18,22|||orders", "1,2|||bills"], &["|||"]];
    let (seed, runs) = (
        setting("LOCKGATE_FUZZ_SEED", 1),
        setting("LOCKGATE_FUZZ_RUNS", RUNS) / 4,
    );
    let policies = rules.map(published);
    for run in seed..seed + runs {
        let random = &mut Random(run.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let policy = policies[random.below(3)];
        let (mut glancing, mut plain) = (session(policy), session(policy));
        let (mut asked, mut answers, mut arrived) = (Vec::new(), Vec::new(), Vec::new());
        let mut judged = 0;
        let producer = random.below(2) == 0;
        for number in 0..40 {
            let client = random.below(2) == 0;
            let pending = if client { &mut asked } else { &mut answers };
            if client && pending.is_empty() {
                *pending = if producer {
                    produce(random, number)
                } else {
                    sample(tables, random, number)
                };
                if random.below(12) == 0 {
                    damage(pending, random);
                }
            }
            let most = if random.below(2) == 0 { 6000 } else { 50 };
            let length = pending.len().min(1 + random.below(most));
            let data: Vec<u8> = pending.drain(..length).collect();
            let shown = if random.below(2) == 0 {
                length
            } else {
                random.below(length + 1)
            };
            let [mut one, mut other] = both(&mut glancing, &mut plain, &data, shown, client);
            if client {
                arrived.extend_from_slice(&one.0);
            }
            while one.1.close.is_none() && glancing.can_resume() {
                let (more, same) = (glancing.from_client(&[]), plain.from_client(&[]));
                let resumed = passed(&[], &more);
                arrived.extend_from_slice(&resumed);
                one.0.extend(resumed);
                other.0.extend(passed(&[], &same));
                assert_eq!((&more.answer, &more.close), (&same.answer, &same.close), "seed {}", run);
                one.1.close = more.close;
                other.1.close = same.close;
                if more.pieces.is_empty() && more.answer.is_empty() {
                    break;
                }
            }
            assert_eq!(one.0, other.0, "seed {}", run);
            assert_eq!(
                (&one.1.answer, &one.1.close),
                (&other.1.answer, &other.1.close),
                "seed {}",
                run
            );
            assert_eq!(glancing.is_paused(), plain.is_paused(), "seed {}", run);
            if one.1.close.is_some() {
                break;
            }
            for frame in frames(&arrived).into_iter().skip(judged) {
                judged += 1;
                let length = 4 + random.below(300);
                answers.extend((length as i32).to_be_bytes());
                answers.extend_from_slice(&frame[8..12]);
                answers.resize(answers.len() + length - 4, 0);
            }
        }
    }
}

#[test]
fn every_request_of_the_table_is_read_to_its_end() {
    let tables = Tables::shared().unwrap();
    let open = published(&["|||"]);
    for api in &tables.apis {
        for version in api.first..=api.last {
            for seed in 1..40 {
                let random = &mut Random(seed << 8 | 1);
                let data = api.sample(version, 1, &NAMES, &mut |limit| random.below(limit));
                let out = session(open).from_client(&data);
                assert_eq!(out.close, None, "{} {}", api.name, version);
            }
        }
    }
}
