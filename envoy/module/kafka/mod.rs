//! The Kafka filter: requests are judged by their API, version, client and topics before the server sees them.
//!
//! `session` is one connection, `queue` its responses on their way back, `last_produce` what it need not read again;
//! `policy` says who may do what, `apis` and `schema` what the protocol looks like, `rewrite` which messages pass in another
//! form. `filter` is the part that knows Envoy.

mod apis;
mod denial_log;
mod few;
mod filter;
mod frame;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod ground;
#[cfg(test)]
mod guided;
mod last_produce;
mod policy;
mod published;
mod queue;
mod rewrite;
mod rules;
mod schema;
mod session;
#[cfg(test)]
mod storm;
mod wire;

pub use filter::config;
