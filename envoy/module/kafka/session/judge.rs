//! Whether the policy in force allows a request, and each topic of it.

use super::super::policy::{Policy, Say};
use super::super::rules::{Part, Request};
use super::super::schema::{Asked, Topic};
use super::{Denial, Session};

impl Session {
    /// The name of what denies the whole connection.
    pub(super) fn closed(&self) -> Option<String> {
        self.sides.iter().find_map(|side| match side {
            Say::Deny(name) => Some(name.clone()),
            _ => None,
        })
    }

    pub(super) fn allows(&self, request: Request, part: Part) -> Result<(), &str> {
        allows(self.policy.as_deref(), &self.sides, request, part)
    }

    pub(super) fn topic_part<'s>(&'s self, topic: &'s Topic) -> Part<'s> {
        let name = match topic.id {
            Some(id) if topic.name.is_none() => self.names.get(&id).map(Vec::as_slice),
            _ => topic.name,
        };
        name.map_or(Part::Everything, Part::Topic)
    }

    pub(super) fn judge(&self, request: Request, asked: &Asked) -> Result<(), String> {
        let judged = |part| self.allows(request, part).map_err(str::to_string);
        let mut nothing = true;
        for topic in asked.topics.iter() {
            judged(self.topic_part(topic))?;
            nothing = false;
        }
        for name in asked.items.iter().filter_map(|item| item.topic()) {
            judged(Part::Topic(name))?;
            nothing = false;
        }
        match asked.everything {
            true => judged(Part::Everything),
            false if nothing => judged(Part::NoTopic),
            false => Ok(()),
        }
    }

    /// The names of the topics that are not allowed.
    pub(super) fn refused(&self, request: Request, asked: &Asked) -> Vec<Vec<u8>> {
        let named = asked.topics.iter().map(|topic| match self.topic_part(topic) {
            Part::Topic(name) => name.to_vec(),
            _ => hex(topic.id.unwrap_or_default()),
        });
        let items = asked.items.iter().filter_map(|item| item.topic()).map(<[u8]>::to_vec);
        named
            .chain(items)
            .filter(|name| self.allows(request, Part::Topic(name)).is_err())
            .collect()
    }
}

/// Ok, or the name of what denies it.
pub(super) fn allows<'s>(
    policy: Option<&Policy>,
    sides: &'s [Say],
    request: Request,
    part: Part,
) -> Result<(), &'s str> {
    for side in sides {
        match side {
            Say::Allow => {}
            Say::Deny(name) => return Err(name),
            Say::Rules(set, name) => {
                let set = policy.and_then(|policy| policy.sets.get(*set));
                if !set.map_or(false, |set| set.allows(request, part)) {
                    return Err(name);
                }
            }
        }
    }
    Ok(())
}

pub(super) fn denial(request: Request, name: &str, topics: Vec<Vec<u8>>, code: i16) -> Denial {
    Denial {
        key: request.key,
        version: request.version,
        client: request.client.to_vec(),
        topics,
        name: name.to_string(),
        code,
    }
}

fn hex(id: [u8; 16]) -> Vec<u8> {
    id.iter()
        .map(|byte| format!("{:02x}", byte))
        .collect::<String>()
        .into_bytes()
}
