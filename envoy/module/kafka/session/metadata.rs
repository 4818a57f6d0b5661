//! Requests for Metadata: those of the client, which are answered topic by topic, and our own for the names of topics.

use super::super::frame::Frame;
use super::super::queue::Waits;
use super::super::rewrite::{metadata_request, names_request, MetadataPlan};
use super::super::rules::{Part, Request};
use super::super::schema::{Api, Asked, METADATA};
use super::judge::denial;
use super::{more, Out, Piece, Session, Step, OWN_CORRELATION};

const MOST_IDS: usize = 1024; // that are asked for at once

impl Session {
    /// Ask the server for the names of topics that a request has by id only. None: all are known that can be.
    pub(super) fn find_names(&mut self, frame: &Frame, request: Request, asked: &Asked, out: &mut Out) -> Option<Step> {
        let by_id = asked.topics.iter().any(|topic| topic.name.is_none());
        if frame.key == METADATA || !by_id || self.asked_names || self.allows(request, Part::Everything).is_ok() {
            return None;
        }
        let unknown: Vec<[u8; 16]> = asked
            .topics
            .iter()
            .filter(|topic| topic.name.is_none())
            .filter_map(|topic| topic.id)
            .filter(|id| !self.names.contains_key(id))
            .collect();
        if unknown.is_empty() {
            return None;
        }
        if unknown.len() > MOST_IDS {
            return Some(Step::Close(
                "a request with more topic ids than can be asked for".to_string(),
            ));
        }
        out.pieces.push(Piece::New(names_request(OWN_CORRELATION, &unknown)));
        self.queue.push(OWN_CORRELATION, Waits::Names);
        self.asked_names = true;
        Some(Step::Wait)
    }

    /// Metadata is answered topic by topic: what is not allowed never reaches the server and comes back refused.
    pub(super) fn metadata(
        &mut self,
        data: &[u8],
        frame: &Frame,
        api: &Api,
        request: Request,
        asked: &Asked,
        out: &mut Out,
    ) -> Step {
        // The first version's empty list is every topic.
        let all = asked.everything || (frame.version == 0 && asked.topics.is_empty());
        let open = self.allows(request, Part::Everything).is_ok();
        let pass: Vec<bool> = asked
            .topics
            .iter()
            .map(|topic| {
                open || topic
                    .name
                    .map_or(true, |name| self.allows(request, Part::Topic(name)).is_ok())
            })
            .collect();
        let by_id = asked.topics.iter().any(|topic| topic.name.is_none());
        let plan = MetadataPlan {
            version: frame.version,
            refused: asked
                .topics
                .iter()
                .zip(&pass)
                .filter(|(_, pass)| !**pass)
                .filter_map(|(topic, _)| topic.name.map(<[u8]>::to_vec))
                .collect(),
            sift: !open && (all || by_id),
            only_refused: frame.version == 0 && !all && !pass.contains(&true),
            by_id,
        };
        if plan.refused.is_empty() && !plan.sift {
            self.queue.push(frame.correlation, Waits::Plain);
            return self.pass(data, frame, out);
        }
        if !plan.refused.is_empty() {
            let name = self.judge(request, asked).err().unwrap_or_default();
            out.denials
                .push(denial(request, &name, plan.refused.clone(), api.code_of(asked)));
        }
        let flexible = api.is_flexible(frame.version);
        let passing = |at: usize| pass.get(at).copied().unwrap_or(false);
        // As it came while nothing is taken out: null, which is every topic, has no elements either.
        let forwarded = if plan.refused.is_empty() {
            data.get(..frame.total).map(<[u8]>::to_vec)
        } else {
            metadata_request(data, frame, flexible, asked, passing)
        };
        let forwarded = match forwarded {
            Some(forwarded) => forwarded,
            None => return more(frame, data.len()),
        };
        let client = frame.client.to_vec();
        self.queue
            .push(frame.correlation, Waits::Metadata(Box::new((plan, client))));
        out.run(frame.total, false);
        out.pieces.push(Piece::New(forwarded));
        Step::On(frame.total)
    }
}
