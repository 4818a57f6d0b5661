//! Messages that pass in another form: what the server says it can do, and Metadata without what a client may not see.

use super::frame::Frame;
use super::schema::{Api, Asked, TOPIC_AUTHORIZATION_FAILED, UNKNOWN_TOPIC_ID};
use super::wire::{begin_frame, end_frame, put_length, put_string, Reader, Trouble};

const UNSUPPORTED_VERSION: i16 = 35;

/// An ApiVersions response with what we can judge: APIs that we do not know are left out, versions cut to ours.
pub fn versions(frame: &[u8], version: i16, apis: &[Api]) -> Result<Vec<u8>, Trouble> {
    let mut reader = Reader::new(frame, frame.len(), 4);
    let correlation = reader.i32()?;
    let code = reader.i16()?;
    match known_versions(frame, reader, code, version, apis) {
        // librdkafka's mock cluster answers so in a form of its own; every server knows the first version.
        Err(_) if code == UNSUPPORTED_VERSION => Ok(version_answer(correlation, (18, 0, 0))),
        known => known,
    }
}

fn known_versions(frame: &[u8], mut reader: Reader, code: i16, version: i16, apis: &[Api]) -> Result<Vec<u8>, Trouble> {
    // A server that does not know the version answers in the first one (KIP-511).
    let flexible = version >= 3 && code != UNSUPPORTED_VERSION;
    let mut out = frame.get(..8).ok_or(Trouble::Malformed)?.to_vec();
    out.extend_from_slice(&code.to_be_bytes());
    let count = reader.length(flexible, true)?.unwrap_or(0);
    let mut kept = Vec::new();
    for _ in 0..count {
        let (key, first, last) = (reader.i16()?, reader.i16()?, reader.i16()?);
        reader.tags(flexible)?;
        if let Some(api) = apis.iter().find(|api| api.key == key) {
            let range = (first.max(api.first), last.min(api.last));
            if range.0 <= range.1 {
                kept.push((key, range.0, range.1));
            }
        }
    }
    put_length(&mut out, Some(kept.len()), flexible, true);
    for (key, first, last) in kept {
        for value in [key, first, last] {
            out.extend_from_slice(&value.to_be_bytes());
        }
        if flexible {
            out.push(0);
        }
    }
    out.extend_from_slice(frame.get(reader.at()..).unwrap_or(&[]));
    Ok(end_frame(out))
}

/// The answer to an ApiVersions request of a version that is newer than we know: which one to use.
pub fn version_unknown(correlation: i32, api: &Api) -> Vec<u8> {
    version_answer(correlation, (api.key, api.first, api.last))
}

fn version_answer(correlation: i32, (key, first, last): (i16, i16, i16)) -> Vec<u8> {
    let mut out = begin_frame(correlation);
    out.extend_from_slice(&UNSUPPORTED_VERSION.to_be_bytes());
    out.extend_from_slice(&1_i32.to_be_bytes());
    for value in [key, first, last] {
        out.extend_from_slice(&value.to_be_bytes());
    }
    end_frame(out)
}

/// What to do with a Metadata response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataPlan {
    pub version: i16,
    /// Names that the response has to refuse.
    pub refused: Vec<Vec<u8>>,
    /// Look at every topic's name: the request asked for all of them, or by id.
    pub sift: bool,
    /// Leave out all topics that the server names, which it does because the request could not say "none".
    pub only_refused: bool,
    /// The request named topics by id: one that may not be seen is then unknown.
    pub by_id: bool,
}

/// A Metadata request with only those topics for which `pass` holds.
pub fn metadata_request(
    data: &[u8],
    frame: &Frame,
    flexible: bool,
    asked: &Asked,
    pass: impl Fn(usize) -> bool,
) -> Option<Vec<u8>> {
    let (start, _, behind) = asked.topics_at;
    let mut out = data.get(..start)?.to_vec();
    let passing: Vec<usize> = (0..asked.topics.len()).filter(|at| pass(*at)).collect();
    put_length(&mut out, Some(passing.len()), flexible, true);
    for at in passing {
        let (from, to) = asked.topics.get(at)?.span;
        out.extend_from_slice(data.get(from..to)?);
    }
    out.extend_from_slice(data.get(behind..frame.total)?);
    Some(end_frame(out))
}

/// A Metadata response after `plan`. `api` describes the response (METADATA_RESPONSE), `visible` is asked for names.
pub fn metadata_response(
    data: &[u8],
    api: &Api,
    plan: &MetadataPlan,
    visible: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, Trouble> {
    let flexible = api.is_flexible(plan.version);
    let mut reader = Reader::new(data, data.len(), 8);
    reader.tags(flexible)?;
    let mut asked = Asked::default();
    // librdkafka's mock cluster adds a byte that clients do not mind.
    api.read_begin(plan.version, &mut reader, &mut asked)?;
    let (start, _, behind) = asked.topics_at;
    let mut elements: Vec<Vec<u8>> = Vec::new();
    for topic in asked.topics.iter() {
        if plan.only_refused {
            continue;
        }
        let named = topic.name.map_or(false, |name| !name.is_empty());
        if !plan.sift || topic.name.map_or(false, |name| visible(name)) || !named {
            let (from, to) = topic.span;
            elements.push(data.get(from..to).ok_or(Trouble::Malformed)?.to_vec());
        } else if plan.by_id {
            // Asked for by id: it is there for those who may see it.
            elements.push(refused_topic(
                plan.version,
                None,
                topic.id.unwrap_or([0; 16]),
                UNKNOWN_TOPIC_ID,
            ));
        }
    }
    for refused in &plan.refused {
        elements.push(refused_topic(
            plan.version,
            Some(refused),
            [0; 16],
            TOPIC_AUTHORIZATION_FAILED,
        ));
    }
    let mut out = data.get(..start).ok_or(Trouble::Malformed)?.to_vec();
    put_length(&mut out, Some(elements.len()), flexible, true);
    out.extend(elements.into_iter().flatten());
    out.extend_from_slice(data.get(behind..).ok_or(Trouble::Malformed)?);
    Ok(end_frame(out))
}

/// One topic of a Metadata response that says nothing but an error.
fn refused_topic(version: i16, name: Option<&[u8]>, id: [u8; 16], code: i16) -> Vec<u8> {
    let flexible = version >= 9;
    let mut out = code.to_be_bytes().to_vec();
    put_string(&mut out, name, flexible);
    if version >= 10 {
        out.extend_from_slice(&id);
    }
    if version >= 1 {
        out.push(0);
    }
    put_length(&mut out, Some(0), flexible, true);
    if version >= 8 {
        out.extend_from_slice(&i32::MIN.to_be_bytes());
    }
    if flexible {
        out.push(0);
    }
    out
}

const NAMES_VERSION: i16 = 12; // of Metadata: the first that takes ids

/// A request of our own: the names of topics by id. Servers that know topic ids in other requests know it.
pub fn names_request(correlation: i32, ids: &[[u8; 16]]) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend_from_slice(&3_i16.to_be_bytes());
    out.extend_from_slice(&NAMES_VERSION.to_be_bytes());
    out.extend_from_slice(&correlation.to_be_bytes());
    out.extend_from_slice(&(-1_i16).to_be_bytes());
    out.push(0);
    put_length(&mut out, Some(ids.len()), true, true);
    for id in ids {
        out.extend_from_slice(id);
        put_string(&mut out, None, true);
        out.push(0);
    }
    // Create nothing, tell no operations, no tags.
    out.extend_from_slice(&[0, 0, 0]);
    end_frame(out)
}

/// The (id, name) pairs of the response to `names_request`.
pub fn names(data: &[u8], api: &Api) -> Result<Vec<([u8; 16], Vec<u8>)>, Trouble> {
    let mut reader = Reader::new(data, data.len(), 8);
    reader.tags(true)?;
    let mut asked = Asked::default();
    api.read_begin(NAMES_VERSION, &mut reader, &mut asked)?;
    Ok(asked
        .topics
        .iter()
        .filter_map(|topic| Some((topic.id?, topic.name.filter(|name| !name.is_empty())?.to_vec())))
        .collect())
}
