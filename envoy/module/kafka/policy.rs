//! The node's Kafka policy as the agent sends it, and which part of it is a connection's.
//!
//! Lines of words (xds/compile/kafka_policy.py writes them):
//!
//! ```text
//! lockgate-kafka 1
//! log PATH                             where denials are written
//! set                                  rule set 0, then 1, ...
//! rule keys|version|client|topic
//! half allow|deny NAME                 one direction's policy, 0, 1, ...; what ports say that no group has
//! ports 9092-9092,9094-9099            a group of its ports
//! peers 1001,1002 SAY                  identities; SAY is `allow NAME`, `deny NAME` or `set NUMBER NAME`
//! others SAY                           every other identity
//! own egress|ingress IDENTITY HALF [ADDRESS]   whose policy it is, and for which address if not for all
//! known IDENTITY,...                   all endpoints of the node: who has no half is not policed
//! ```

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::rules::RuleSet;

/// What is said of a peer on a port. `name` is that of what decides, or of the denial when no rule matches.
#[derive(Clone, Debug)]
pub enum Say {
    Allow,
    Deny(String),
    Rules(usize, String),
}

#[derive(Debug)]
struct Group {
    spans: Vec<(u16, u16)>,
    peers: HashMap<u32, usize>,
    others: usize,
}

#[derive(Debug)]
struct Half {
    uncovered: usize,
    groups: Vec<Group>,
}

/// One end of a connection. `subject` is its identity if it is an endpoint of this node, and else 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub address: IpAddr,
    pub identity: u32,
    pub subject: u32,
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub source: End,
    pub destination: End,
    pub port: u16,
}

/// Whose a half is.
#[derive(Debug)]
enum Own {
    All(usize),
    ByAddress(HashMap<IpAddr, usize>),
}

/// All of it. Immutable; a change makes another.
#[derive(Debug, Default)]
pub struct Policy {
    pub log: String,
    pub sets: Vec<RuleSet>,
    says: Vec<Say>,
    halves: Vec<Half>,
    egress: HashMap<u32, Own>,
    ingress: HashMap<u32, Own>,
    known: HashSet<u32>,
}

impl Policy {
    /// The sides of a connection that have a policy: the client's egress, then the server's ingress.
    pub fn sides(&self, ends: Ends) -> Vec<Say> {
        let sides = [
            (ends.source, &self.egress, ends.destination),
            (ends.destination, &self.ingress, ends.source),
        ];
        sides
            .into_iter()
            .filter_map(|(own, owners, peer)| self.side(own, owners, ends.port, peer.identity))
            .collect()
    }

    fn side(&self, own: End, owners: &HashMap<u32, Own>, port: u16, peer: u32) -> Option<Say> {
        let unknown = || Say::Deny("node:unknown-identity".to_string());
        let half = match owners.get(&own.subject) {
            _ if own.subject == 0 => return None,
            None if self.known.contains(&own.subject) => return None,
            None => return Some(unknown()),
            Some(Own::All(half)) => Some(half),
            Some(Own::ByAddress(halves)) => halves.get(&own.address),
        };
        let half = half.and_then(|half| self.halves.get(*half));
        Some(
            half.and_then(|half| self.says.get(half.said(port, peer)))
                .cloned()
                .unwrap_or_else(unknown),
        )
    }

    /// Reads the lines.
    pub fn read(text: &[u8]) -> Result<Policy, String> {
        let text = std::str::from_utf8(text).map_err(|_| "the policy is not UTF-8".to_string())?;
        let mut lines = text.lines();
        if lines.next() != Some("lockgate-kafka 1") {
            return Err("the policy does not begin with 'lockgate-kafka 1'".to_string());
        }
        let mut policy = Policy::default();
        for (number, line) in lines.enumerate() {
            policy
                .line(line)
                .map_err(|reason| format!("line {}: {}", number + 2, reason))?;
        }
        policy.check()?;
        Ok(policy)
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split(' ').collect();
        match (word, words.as_slice()) {
            ("log", _) => self.log = rest.to_string(),
            ("set", _) => self.sets.push(RuleSet::default()),
            ("rule", _) => self.sets.last_mut().ok_or("a rule before its set")?.add(rest)?,
            ("half", say) => {
                let uncovered = self.said(say)?;
                self.halves.push(Half {
                    uncovered,
                    groups: Vec::new(),
                });
            }
            ("ports", [spans]) => {
                let spans = spans.split(',').map(span).collect::<Result<Vec<_>, _>>()?;
                let half = self.halves.last_mut().ok_or("ports before their half")?;
                half.groups.push(Group {
                    spans,
                    peers: HashMap::new(),
                    others: usize::MAX,
                });
            }
            ("peers", [identities, say @ ..]) => {
                let say = self.said(say)?;
                let group = self.group()?;
                for identity in identities.split(',') {
                    group.peers.insert(number(identity)?, say);
                }
            }
            ("others", say) => {
                let say = self.said(say)?;
                self.group()?.others = say;
            }
            ("own", [direction, identity, half, address @ ..]) => {
                let half = number(half)? as usize;
                let owners = match *direction {
                    "egress" => &mut self.egress,
                    "ingress" => &mut self.ingress,
                    _ => return Err(format!("{:?} is no direction", direction)),
                };
                let owner = owners.entry(number(identity)?);
                match address {
                    [] => {
                        owner.or_insert(Own::All(half));
                    }
                    [address] => {
                        let address = address.parse().map_err(|_| format!("{:?} is no address", address))?;
                        if let Own::ByAddress(halves) = owner.or_insert_with(|| Own::ByAddress(HashMap::new())) {
                            halves.insert(address, half);
                        }
                    }
                    _ => return Err("more than an address".to_string()),
                }
            }
            ("known", [identities]) => {
                for identity in identities.split(',') {
                    self.known.insert(number(identity)?);
                }
            }
            _ => return Err(format!("{:?} is not understood", line)),
        }
        Ok(())
    }

    fn group(&mut self) -> Result<&mut Group, String> {
        let half = self.halves.last_mut().ok_or("peers before their half")?;
        half.groups
            .last_mut()
            .ok_or_else(|| "peers before their ports".to_string())
    }

    fn said(&mut self, words: &[&str]) -> Result<usize, String> {
        self.says.push(match words {
            ["allow", _] => Say::Allow,
            ["deny", name] => Say::Deny(name.to_string()),
            ["set", set, name] => Say::Rules(number(set)? as usize, name.to_string()),
            _ => return Err(format!("{:?} says nothing", words)),
        });
        Ok(self.says.len() - 1)
    }

    /// Numbers that lead nowhere would deny, but somebody should know.
    fn check(&self) -> Result<(), String> {
        for say in &self.says {
            if let Say::Rules(set, _) = say {
                self.sets.get(*set).ok_or_else(|| format!("there is no set {}", set))?;
            }
        }
        for own in self.egress.values().chain(self.ingress.values()) {
            let halves: Vec<usize> = match own {
                Own::All(half) => vec![*half],
                Own::ByAddress(halves) => halves.values().copied().collect(),
            };
            if let Some(half) = halves.iter().find(|half| **half >= self.halves.len()) {
                return Err(format!("there is no half {}", half));
            }
        }
        if self
            .halves
            .iter()
            .any(|half| half.groups.iter().any(|group| group.others == usize::MAX))
        {
            return Err("a group of ports does not speak of others".to_string());
        }
        Ok(())
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{:?} is no number", text))
}

fn span(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').ok_or("a span has no end")?;
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{:?} is no port", text));
    Ok((port(first)?, port(last)?))
}

impl Half {
    /// The number of what it says of a peer on a port.
    fn said(&self, port: u16, peer: u32) -> usize {
        let holds = |group: &&Group| group.spans.iter().any(|span| span.0 <= port && port <= span.1);
        let group = self.groups.iter().find(holds);
        group.map_or(self.uncovered, |group| *group.peers.get(&peer).unwrap_or(&group.others))
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::{Part, Request};
    use super::*;

    const TEXT: &str = "lockgate-kafka 1
log /run/x
set
rule 0,3|||orders
half deny unmatched
ports 9092-9093
peers 1001,1002 set 0 none
peers 1003 deny a-rule
others deny unmatched
ports 80-80
others allow open
half allow default
own ingress 7 0
own ingress 8 0 10.0.0.8
own ingress 8 1 10.0.0.9
known 7,8,9";

    fn said(policy: &Policy, source: u32, port: u16, subject: u32, address: &str) -> Vec<String> {
        let ends = Ends {
            source: End {
                address: "10.0.0.1".parse().unwrap(),
                identity: source,
                subject: 0,
            },
            destination: End {
                address: address.parse().unwrap(),
                identity: subject,
                subject,
            },
            port,
        };
        policy.sides(ends).iter().map(|side| format!("{:?}", side)).collect()
    }

    #[test]
    fn port_and_peer_choose_what_is_said() {
        let policy = Policy::read(TEXT.as_bytes()).unwrap();
        let at = |source, port| said(&policy, source, port, 7, "10.0.0.2");
        assert_eq!(at(1001, 9092), ["Rules(0, \"none\")"]);
        assert_eq!(at(1002, 9093), ["Rules(0, \"none\")"]);
        assert_eq!(at(1003, 9092), ["Deny(\"a-rule\")"]);
        assert_eq!(at(2, 9092), ["Deny(\"unmatched\")"]);
        assert_eq!(at(2, 80), ["Allow"]);
        assert_eq!(at(1001, 81), ["Deny(\"unmatched\")"]);
        let request = Request {
            key: 0,
            version: 0,
            client: b"",
        };
        assert!(policy.sets[0].allows(request, Part::Topic(b"orders")));
    }

    #[test]
    fn who_is_known_and_has_no_policy_is_not_policed_and_who_is_not_known_is_denied() {
        let policy = Policy::read(TEXT.as_bytes()).unwrap();
        assert!(said(&policy, 1001, 9092, 9, "10.0.0.2").is_empty());
        assert!(said(&policy, 1001, 9092, 0, "10.0.0.2").is_empty());
        assert_eq!(
            said(&policy, 1001, 9092, 10, "10.0.0.2"),
            ["Deny(\"node:unknown-identity\")"]
        );
    }

    #[test]
    fn endpoints_of_one_identity_may_differ() {
        let policy = Policy::read(TEXT.as_bytes()).unwrap();
        assert_eq!(said(&policy, 1003, 9092, 8, "10.0.0.8"), ["Deny(\"a-rule\")"]);
        assert_eq!(said(&policy, 1003, 9092, 8, "10.0.0.9"), ["Allow"]);
        assert_eq!(
            said(&policy, 1003, 9092, 8, "10.0.0.7"),
            ["Deny(\"node:unknown-identity\")"]
        );
    }

    #[test]
    fn what_is_not_understood_refuses_the_policy() {
        for (from, to) in [
            ("lockgate-kafka 1", "lockgate-kafka 2"),
            ("set 0 none", "set 1 none"),
            ("own ingress 7 0", "own ingress 7 2"),
            ("ports 80-80\nothers allow open", "ports 80-80"),
            ("9092-9093", "9092"),
            ("others allow", "others maybe"),
            ("known 7", "known x"),
            ("log", "lock"),
        ] {
            let text = TEXT.replace(from, to);
            assert!(Policy::read(text.as_bytes()).is_err(), "{}", to);
        }
    }
}
