//! The log of refused requests: a JSON line each, in the file and the form of Envoy's own (envoy/config/access_log.py).
//!
//! A worker thread never waits for the disk: lines go to a thread of their own, and what it cannot keep up with is lost
//! and counted. The file is opened anew for every batch, so that it may be renamed.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender, TrySendError};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::session::Denial;

const MOST_WAITING: usize = 4096;
const MOST_TOPICS: usize = 20;
const LONGEST_TEXT: usize = 256;

type Line = (String, String);

/// One end of a connection and its identity.
pub type Party = (SocketAddr, u32);

static LINES: Mutex<Option<SyncSender<Line>>> = Mutex::new(None);
static LOST: AtomicU64 = AtomicU64::new(0);

/// Write `line` to the file `path` some time soon.
pub fn write(path: &str, line: String) {
    if path.is_empty() {
        return;
    }
    let sender = match LINES.lock() {
        Ok(mut slot) => slot.get_or_insert_with(start).clone(),
        Err(_) => return,
    };
    match sender.try_send((path.to_string(), line)) {
        Ok(()) => {}
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn start() -> SyncSender<Line> {
    let (sender, receiver) = sync_channel(MOST_WAITING);
    // Without the thread the channel is closed, and lines are lost and counted.
    let _ = thread::Builder::new()
        .name("lockgate-log".to_string())
        .spawn(move || keep(&receiver));
    sender
}

fn keep(lines: &Receiver<Line>) {
    while let Ok((path, mut text)) = lines.recv() {
        while let Ok((other, line)) = lines.try_recv() {
            if other != path || text.len() > 1 << 16 {
                append(&other, &line);
            } else {
                text.push_str(&line);
            }
        }
        append(&path, &text);
    }
}

fn append(path: &str, text: &str) {
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    if written.is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// One line about a request that was refused.
pub fn line(denial: &Denial, api: &str, source: Party, destination: Party) -> String {
    let topics = &denial.topics;
    let mut named: Vec<String> = topics.iter().take(MOST_TOPICS).map(|name| quoted(name)).collect();
    if topics.len() > MOST_TOPICS {
        named.push(format!("\"and {} more\"", topics.len() - MOST_TOPICS));
    }
    record(
        &format!("rbac_access_denied_matched_policy[{}]", denial.name),
        denial.code,
        (source, destination),
        (
            &quoted(api.as_bytes()),
            &quoted(&topics.join(&b',')),
            &quoted(&denial.client),
        ),
        &format!(
            "{{\"api\":{},\"version\":{},\"client_id\":{},\"topics\":[{}]}}",
            quoted(api.as_bytes()),
            denial.version,
            quoted(&denial.client),
            named.join(",")
        ),
    )
}

/// One line about a connection that was ended.
pub fn closed(reason: &str, source: Party, destination: Party) -> String {
    record(reason, 0, (source, destination), ("\"-\"", "\"-\"", "null"), "null")
}

/// What a request of HTTP says by method, path and host, one of Kafka says by API, topics and client.
fn record(
    details: &str,
    code: i16,
    (source, destination): (Party, Party),
    (method, path, host): (&str, &str, &str),
    kafka: &str,
) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!(
        "{{\"time\":\"{}\",\"source\":\"{}\",\"destination\":\"{}\",\"method\":{},\"path\":{},\"host\":{},\
         \"code\":{},\"details\":{},\"protocol\":\"kafka\",\"mismatches\":null,\
         \"source_identity\":{},\"destination_identity\":{},\"kafka\":{}}}\n",
        time(since),
        source.0,
        destination.0,
        method,
        path,
        host,
        code,
        quoted(details.as_bytes()),
        source.1,
        destination.1,
        kafka
    )
}

/// A JSON string; what is no UTF-8 becomes U+FFFD, what is long is cut.
fn quoted(text: &[u8]) -> String {
    let text = text.get(..LONGEST_TEXT).unwrap_or(text);
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for symbol in String::from_utf8_lossy(text).chars() {
        match symbol {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// UTC, as 2026-01-02T03:04:05.000006+00:00 (days to a date: http://howardhinnant.github.io/date_algorithms.html).
fn time(since: Duration) -> String {
    let seconds = since.as_secs();
    let days = seconds / 86400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}+00:00",
        year,
        month,
        day,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(time(Duration::from_secs(0)), "1970-01-01T00:00:00.000000+00:00");
        assert_eq!(
            time(Duration::from_micros(951_827_696_000_007)),
            "2000-02-29T12:34:56.000007+00:00"
        );
        assert_eq!(
            time(Duration::from_secs(4_102_444_799)),
            "2099-12-31T23:59:59.000000+00:00"
        );
    }

    #[test]
    fn a_line_is_json_whatever_a_client_calls_itself() {
        let denial = Denial {
            client: b"a\"\\\n\xff".to_vec(),
            topics: vec![b"t".to_vec()],
            name: "rule".to_string(),
            ..Denial::default()
        };
        let source = ("10.0.0.1:5".parse().unwrap(), 7);
        let text = line(&denial, "Produce", source, ("[::1]:9".parse().unwrap(), 8));
        assert!(text.contains("\"client_id\":\"a\\\"\\\\\\u000a\u{fffd}\""), "{}", text);
        assert!(text.contains("\"source_identity\":7,\"destination_identity\":8"));
        assert!(text.ends_with("}}\n"));
    }
}
