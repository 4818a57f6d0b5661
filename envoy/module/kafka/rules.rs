//! The request rules of one peer and port: which requests they let pass.

use std::collections::BTreeMap;

/// What a rule says of a request besides its topic. None is any, no keys are every API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Condition {
    keys: u128,
    version: Option<i16>,
    client: Option<Vec<u8>>,
}

/// One request as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub key: i16,
    pub version: i16,
    pub client: &'a [u8],
}

impl Condition {
    fn holds(&self, request: Request) -> bool {
        let listed = u32::try_from(request.key)
            .ok()
            .and_then(|key| self.keys.checked_shr(key))
            .unwrap_or(0);
        (self.keys == 0 || listed & 1 == 1)
            && self.version.map_or(true, |version| version == request.version)
            && self
                .client
                .as_ref()
                .map_or(true, |client| client.as_slice() == request.client)
    }
}

/// What part of a request a rule is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// It names no topic: a rule's topic does not count.
    NoTopic,
    Topic(&'a [u8]),
    /// Every topic, or one that cannot be told: only a rule without a topic covers it.
    Everything,
}

/// The union of several rules.
#[derive(Debug, Default)]
pub struct RuleSet {
    all: Vec<Condition>,
    any_topic: Vec<Condition>,
    by_topic: BTreeMap<Vec<u8>, Vec<Condition>>,
}

impl RuleSet {
    pub fn allows(&self, request: Request, part: Part) -> bool {
        let holds = |conditions: &[Condition]| conditions.iter().any(|condition| condition.holds(request));
        match part {
            Part::NoTopic => holds(&self.all),
            Part::Everything => holds(&self.any_topic),
            Part::Topic(name) => {
                holds(&self.any_topic) || self.by_topic.get(name).map_or(false, |conditions| holds(conditions))
            }
        }
    }

    /// Add a rule written `keys|version|client|topic`; an empty part is any, %XX stands for a byte of the client's id.
    pub fn add(&mut self, line: &str) -> Result<(), String> {
        let parts: Vec<&str> = line.split('|').collect();
        let [keys, version, client, topic] = match <[&str; 4]>::try_from(parts) {
            Ok(parts) => parts,
            Err(_) => return Err(format!("{:?} is not keys|version|client|topic", line)),
        };
        let mut condition = Condition::default();
        for key in keys.split(',').filter(|key| !key.is_empty()) {
            let key: u32 = key.parse().map_err(|_| format!("{:?} is no API key", key))?;
            condition.keys |= 1_u128
                .checked_shl(key)
                .ok_or_else(|| format!("API key {} is above 127", key))?;
        }
        if !version.is_empty() {
            condition.version = Some(version.parse().map_err(|_| format!("{:?} is no version", version))?);
        }
        if !client.is_empty() {
            condition.client = Some(unescape(client)?);
        }
        if !self.all.contains(&condition) {
            self.all.push(condition.clone());
        }
        if topic.is_empty() {
            self.any_topic.push(condition);
        } else {
            self.by_topic
                .entry(topic.as_bytes().to_vec())
                .or_default()
                .push(condition);
        }
        Ok(())
    }
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next().unwrap_or(0), bytes.next().unwrap_or(0)];
        let digits = std::str::from_utf8(&digits).unwrap_or("");
        out.push(u8::from_str_radix(digits, 16).map_err(|_| format!("{:?}: % without two digits", text))?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(lines: &[&str]) -> RuleSet {
        let mut set = RuleSet::default();
        for line in lines {
            set.add(line).unwrap();
        }
        set
    }

    fn request(key: i16) -> Request<'static> {
        Request {
            key,
            version: 3,
            client: b"app",
        }
    }

    #[test]
    fn no_rule_matches_nothing_and_an_empty_one_everything() {
        assert!(!set(&[]).allows(request(0), Part::NoTopic));
        let open = set(&["|||"]);
        for part in [Part::NoTopic, Part::Topic(b"t"), Part::Everything] {
            assert!(open.allows(request(0), part));
            assert!(open.allows(request(999), part));
            assert!(open.allows(request(-1), part));
        }
    }

    #[test]
    fn each_part_of_a_rule_counts() {
        assert!(set(&["0,3|||"]).allows(request(3), Part::Everything));
        assert!(!set(&["0,3|||"]).allows(request(1), Part::NoTopic));
        assert!(!set(&["0,3|||"]).allows(request(128), Part::NoTopic));
        assert!(!set(&["|4||"]).allows(request(0), Part::NoTopic));
        assert!(set(&["|3||"]).allows(request(0), Part::NoTopic));
        assert!(set(&["||a%70p|"]).allows(request(0), Part::NoTopic));
        assert!(!set(&["||ap|"]).allows(request(0), Part::NoTopic));
    }

    #[test]
    fn a_topic_is_for_requests_that_name_one() {
        let topic = set(&["|||orders", "0|||bills"]);
        assert!(topic.allows(request(10), Part::NoTopic));
        assert!(topic.allows(request(0), Part::Topic(b"orders")));
        assert!(topic.allows(request(0), Part::Topic(b"bills")));
        assert!(!topic.allows(request(1), Part::Topic(b"bills")));
        assert!(!topic.allows(request(0), Part::Topic(b"other")));
        assert!(!topic.allows(request(0), Part::Everything));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for line in ["", "|||a|b", "x|||", "200|||", "|x||", "||%4|", "||%zz|"] {
            assert!(RuleSet::default().add(line).is_err(), "{}", line);
        }
    }
}
