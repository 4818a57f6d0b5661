//! A search for inputs that reach new code: `scripts/fuzz-kafka --guided` builds this with LLVM's coverage counters and
//! lets it run for LOCKGATE_FUZZ_SECONDS. Without counters (in CI) it tries a few thousand mutations and keeps none.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::fuzz::{damage, frames, passes_alone, setting, Random};
use super::ground::{at_a_glance, passed, published, session};
use super::published::Published;
use super::schema::Tables;
use super::session::Out;

static FIRST: AtomicUsize = AtomicUsize::new(0);
static LAST: AtomicUsize = AtomicUsize::new(0);

/// Called by what the compiler adds; the counters are bytes.
#[no_mangle]
pub extern "C" fn __sanitizer_cov_8bit_counters_init(first: *mut u8, last: *mut u8) {
    FIRST.store(first as usize, Ordering::Relaxed);
    LAST.store(last as usize, Ordering::Relaxed);
}

#[no_mangle]
pub extern "C" fn __sanitizer_cov_pcs_init(_first: *const usize, _last: *const usize) {}

fn counters() -> &'static mut [u8] {
    let (first, last) = (FIRST.load(Ordering::Relaxed), LAST.load(Ordering::Relaxed));
    if first == 0 {
        return &mut [];
    }
    unsafe { std::slice::from_raw_parts_mut(first as *mut u8, last - first) }
}

/// An input is pieces for one side or the other: a byte that says which and how long, and the piece.
fn run(policies: &[&'static Published], input: &[u8]) {
    let policy = policies[usize::from(input.first().copied().unwrap_or(0)) % policies.len()];
    let mut session = session(policy);
    let (mut rest, mut stream) = (input.get(1..).unwrap_or(&[]), Vec::new());
    while let Some((&how, behind)) = rest.split_first() {
        let (piece, after) = behind.split_at(usize::from(how >> 1).min(behind.len()));
        rest = after;
        let shown = if how & 2 == 0 { piece.len() } else { piece.len() / 2 };
        let out = if how & 1 == 0 {
            if let Some(came) = at_a_glance(&mut session, piece, shown) {
                stream.extend(came);
                continue;
            }
            let out = session.from_client(piece);
            stream.extend(passed(piece, &out));
            out
        } else if session.pass_rest_of_response(piece.len()) || session.pass_response(&piece[..shown], piece.len()) {
            Out::default()
        } else {
            session.from_server(piece)
        };
        while session.can_resume() {
            let out = session.from_client(&[]);
            stream.extend(passed(&[], &out));
            if out.close.is_some() || out.pieces.is_empty() {
                break;
            }
        }
        if out.close.is_some() {
            break;
        }
    }
    for frame in frames(&stream) {
        assert!(passes_alone(policy, frame), "{:?} lets {:?} pass", input, frame);
    }
}

/// A request in pieces, and the begin of a response to it.
fn seed(request: &[u8], correlation: i32) -> Vec<u8> {
    let mut input = vec![0];
    for piece in request.chunks(127) {
        input.push((piece.len() as u8) << 1);
        input.extend(piece);
    }
    input.push(16 << 1 | 1);
    input.extend(12_i32.to_be_bytes());
    input.extend(correlation.to_be_bytes());
    input.extend([0; 8]);
    input
}

#[test]
fn no_way_leads_past_the_rules() {
    let tables = Tables::shared().unwrap();
    let policies = [
        published(&["|||orders"]),
        published(&["0,3,18,22|||orders", "1,2,3,9,10|||bills"]),
        published(&["|||"]),
        published(&["|3||orders", "3|||"]),
    ];
    let (seconds, runs) = (setting("LOCKGATE_FUZZ_SECONDS", 0), setting("LOCKGATE_FUZZ_RUNS", 3000));
    let random = &mut Random(setting("LOCKGATE_FUZZ_SEED", 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    for api in &tables.apis {
        for version in api.first..=api.last {
            let request = api.sample(version, 1, &["orders", "secret", "bills"], &mut |limit| {
                random.below(limit)
            });
            corpus.push(seed(&request, 1));
        }
    }
    let (seeds, mut seen, mut count) = (corpus.len(), HashSet::new(), 0);
    let end = Instant::now() + Duration::from_secs(seconds);
    while count < runs || Instant::now() < end {
        let mut input = corpus[random.below(corpus.len())].clone();
        if count >= seeds as u64 {
            damage(&mut input, random);
            if random.below(4) == 0 {
                let other = &corpus[random.below(corpus.len())];
                input.truncate(random.below(input.len() + 1));
                input.extend(&other[random.below(other.len())..]);
            }
            input.truncate(4096);
            if input.is_empty() {
                continue;
            }
        } else {
            input = corpus[count as usize].clone();
        }
        counters().fill(0);
        run(&policies, &input);
        let mut new = false;
        for (place, hits) in counters().iter().enumerate().filter(|(_, hits)| **hits > 0) {
            new |= seen.insert((place, 8 - hits.leading_zeros()));
        }
        if new && count >= seeds as u64 {
            corpus.push(input);
        }
        count += 1;
    }
    println!(
        "{} inputs; {} of them reached something new; {} counters, {} states of them seen",
        count,
        corpus.len() - seeds,
        counters().len(),
        seen.len()
    );
}
