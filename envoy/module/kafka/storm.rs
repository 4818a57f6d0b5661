//! Client streams for a real Envoy in front of a server that keeps every byte, and the verdict on what arrived there;
//! scripts/fuzz-kafka and tests/e2e/kafka_storm.py do the sending.
//!
//! In the folder LOCKGATE_STORM: `policy` and `streams` are written, and once `arrived` is there it is judged instead.
//! Both are streams, each behind its length (four bytes, big-endian). Without a folder the library stands in for Envoy.

use std::path::{Path, PathBuf};

use super::frame::{look, Seen};
use super::fuzz::{damage, feed, frames, passes_alone, sample, setting, Random};
use super::ground::{policy, published, session};
use super::schema::Tables;

const RUNS: u64 = 3000;
const RULES: [&str; 4] = [
    "0,3,18,22|||orders",
    "1,2,3,9,10|||bills",
    "19|7||x",
    "8,11,12,13,14|||",
];

/// A few requests, some of them damaged, sometimes nothing like a request.
fn stream(tables: &Tables, random: &mut Random) -> Vec<u8> {
    let mut stream = Vec::new();
    for number in 0..1 + random.below(6) {
        let mut data = sample(tables, random, number as i32 + 1);
        if random.below(4) == 0 {
            damage(&mut data, random);
        }
        stream.extend(data);
        if random.below(40) == 0 {
            stream.extend((0..random.below(50)).map(|_| random.below(256) as u8));
        }
    }
    stream
}

fn write(path: &Path, streams: &[Vec<u8>]) {
    let mut out = Vec::new();
    for stream in streams {
        out.extend((stream.len() as u32).to_be_bytes());
        out.extend(stream);
    }
    std::fs::write(path, out).unwrap();
}

fn read(path: &Path) -> Vec<Vec<u8>> {
    let data = std::fs::read(path).unwrap();
    let (mut rest, mut streams) = (data.as_slice(), Vec::new());
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        streams.push(rest[4..4 + length].to_vec());
        rest = &rest[4 + length..];
    }
    streams
}

/// Every whole request passes by itself, and what is cut off begins like one.
fn judge(arrived: &[Vec<u8>]) {
    let published = published(&RULES);
    let mut count = 0;
    for stream in arrived {
        let whole = frames(stream);
        count += whole.len();
        for frame in &whole {
            assert!(passes_alone(published, frame), "it must not pass: {:?}", frame);
        }
        let rest = &stream[whole.iter().map(|frame| frame.len()).sum()..];
        assert!(!matches!(look(rest), Seen::Bad(_)), "no request begins so: {:?}", rest);
    }
    println!(
        "{} streams with {} requests arrived, all of them allowed",
        arrived.len(),
        count
    );
    assert!(count > 0, "nothing arrived");
}

#[test]
fn only_what_is_allowed_arrives() {
    let tables = Tables::shared().unwrap();
    let (seed, runs) = (setting("LOCKGATE_FUZZ_SEED", 1), setting("LOCKGATE_FUZZ_RUNS", RUNS));
    let random = |run: u64| Random(run.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let streams: Vec<_> = (seed..seed + runs)
        .map(|run| stream(&tables, &mut random(run)))
        .collect();
    match std::env::var_os("LOCKGATE_STORM").map(PathBuf::from) {
        Some(folder) if folder.join("arrived").exists() => judge(&read(&folder.join("arrived"))),
        Some(folder) => {
            // Envoy listens on a port that is free.
            let policy = policy(&RULES).replace("ports 9092-9092", "ports 1-65535");
            std::fs::write(folder.join("policy"), policy).unwrap();
            write(&folder.join("streams"), &streams);
        }
        None => {
            let policy = published(&RULES);
            let through = |stream: &Vec<u8>| feed(&mut session(policy), stream, &mut random(7)).0;
            judge(&streams.iter().map(through).collect::<Vec<_>>());
        }
    }
}
