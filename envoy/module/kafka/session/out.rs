//! What one step of a session comes to.

use super::super::few::Few;

/// What becomes of the bytes that came in, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Same(usize),
    Gone(usize),
    New(Vec<u8>),
}

impl Default for Piece {
    fn default() -> Piece {
        Piece::Same(0)
    }
}

/// A request that was refused, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    pub key: i16,
    pub version: i16,
    pub client: Vec<u8>,
    pub topics: Vec<Vec<u8>>,
    pub name: String,
    /// What was done about it.
    pub code: i16,
}

/// What one step comes to.
#[derive(Debug, Default)]
pub struct Out {
    pub pieces: Few<Piece, 2>,
    /// For the client, now.
    pub answer: Vec<u8>,
    /// End the connection, and why.
    pub close: Option<String>,
    pub denials: Vec<Denial>,
}

impl Out {
    /// Pass or drop `count` bytes.
    pub(in super::super) fn run(&mut self, count: usize, pass: bool) {
        match (self.pieces.last_mut(), pass) {
            _ if count == 0 => {}
            (Some(Piece::Same(before)), true) | (Some(Piece::Gone(before)), false) => *before += count,
            (_, true) => self.pieces.push(Piece::Same(count)),
            (_, false) => self.pieces.push(Piece::Gone(count)),
        }
    }

    /// What becomes of `held`, bytes that had been kept back: what passes of them is new where it comes out.
    pub(in super::super) fn take_held(&mut self, pieces: Few<Piece, 2>, held: &[u8]) {
        let mut at = 0;
        for piece in pieces.into_vec() {
            match piece {
                Piece::Same(count) => {
                    self.pieces
                        .push(Piece::New(held.get(at..at + count).unwrap_or(&[]).to_vec()));
                    at += count;
                }
                Piece::Gone(count) => at += count,
                new => self.pieces.push(new),
            }
        }
    }
}
