//! A stream of TLS records, and the handshake messages in them.
//! https://www.rfc-editor.org/rfc/rfc8446#section-5.1

pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const HANDSHAKE: u8 = 22;
const KINDS: std::ops::RangeInclusive<u8> = CHANGE_CIPHER_SPEC..=24;
const LONGEST: usize = (1 << 14) + 2048; // of TLS 1.2, when it is encrypted

const HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
const LONGEST_MESSAGE: usize = 1 << 16;

/// Not what a TLS stream is made of.
#[derive(Debug, PartialEq, Eq)]
pub struct Garbled;

/// Some bytes of one record, `first` when they are its first ones.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'d> {
    pub kind: u8,
    pub first: bool,
    pub bytes: &'d [u8],
}

/// Where in a stream of records one is.
#[derive(Default)]
pub struct Records {
    header: [u8; HEADER],
    known: usize, // bytes of the header
    left: usize,  // bytes of the record that are to come
}

impl Records {
    /// Takes the next piece off the front of `data`; None when nothing is left of it. An empty record is a piece too.
    pub fn next<'d>(&mut self, data: &mut &'d [u8]) -> Result<Option<Piece<'d>>, Garbled> {
        let mut first = false;
        if self.left == 0 {
            let taken = (HEADER - self.known).min(data.len());
            self.header[self.known..self.known + taken].copy_from_slice(&data[..taken]);
            self.known += taken;
            *data = &data[taken..];
            if self.known < HEADER {
                return Ok(None);
            }
            let [kind, major, _, high, low] = self.header;
            let length = usize::from(u16::from_be_bytes([high, low]));
            if !KINDS.contains(&kind) || major != 3 || length > LONGEST {
                return Err(Garbled);
            }
            if length > 0 && data.is_empty() {
                return Ok(None); // it begins with the first of its bytes
            }
            (self.known, self.left, first) = (0, length, true);
        } else if data.is_empty() {
            return Ok(None);
        }
        let (bytes, rest) = data.split_at(self.left.min(data.len()));
        self.left -= bytes.len();
        *data = rest;
        Ok(Some(Piece {
            kind: self.header[0],
            first,
            bytes,
        }))
    }
}

/// A handshake message that is put together.
#[derive(Default)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Takes what belongs to it off the front of `data`; its kind and its body once it is whole, and then it begins anew.
    pub fn add(&mut self, data: &mut &[u8]) -> Result<Option<(u8, Vec<u8>)>, Garbled> {
        self.fill(MESSAGE_HEADER, data);
        if self.bytes.len() < MESSAGE_HEADER {
            return Ok(None);
        }
        let length = u32::from_be_bytes([0, self.bytes[1], self.bytes[2], self.bytes[3]]) as usize;
        if length > LONGEST_MESSAGE {
            return Err(Garbled);
        }
        self.fill(MESSAGE_HEADER + length, data);
        if self.bytes.len() < MESSAGE_HEADER + length {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.bytes);
        Ok(Some((whole[0], whole[MESSAGE_HEADER..].to_vec())))
    }

    fn fill(&mut self, length: usize, data: &mut &[u8]) {
        let taken = length.saturating_sub(self.bytes.len()).min(data.len());
        self.bytes.extend_from_slice(&data[..taken]);
        *data = &data[taken..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(records: &mut Records, mut data: &[u8]) -> Result<Vec<(u8, bool, Vec<u8>)>, Garbled> {
        let mut found = Vec::new();
        while let Some(piece) = records.next(&mut data)? {
            found.push((piece.kind, piece.first, piece.bytes.to_vec()));
        }
        Ok(found)
    }

    #[test]
    fn records_are_the_same_however_they_come() {
        let data = b"\x16\x03\x01\x00\x03abc\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x00\x16\x03\x03\x00\x02de";
        let whole = pieces(&mut Records::default(), data).unwrap();
        assert_eq!(
            whole,
            [
                (22, true, b"abc".to_vec()),
                (20, true, b"\x01".to_vec()),
                (23, true, vec![]),
                (22, true, b"de".to_vec())
            ]
        );
        for step in 1..data.len() {
            let mut records = Records::default();
            let mut begun = Vec::new();
            for part in data.chunks(step) {
                for (kind, first, bytes) in pieces(&mut records, part).unwrap() {
                    if first {
                        begun.push((kind, true, bytes));
                    } else {
                        begun.last_mut().unwrap().2.extend(bytes);
                    }
                }
            }
            assert_eq!(begun, whole, "in steps of {step}");
        }
    }

    #[test]
    fn what_is_no_record_is_garbled() {
        for data in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x02\x00\x00\x01x",
            b"\x16\x03\x01\xff\xffx",
            b"\x80\x2e\x01\x03\x01\x00",
        ] {
            assert_eq!(pieces(&mut Records::default(), data), Err(Garbled));
        }
    }

    #[test]
    fn a_message_may_come_byte_by_byte() {
        let mut message = Message::default();
        let data = b"\x01\x00\x00\x02ab";
        for byte in &data[..5] {
            assert_eq!(message.add(&mut &[*byte][..]), Ok(None));
        }
        let mut rest = &b"bc"[..];
        assert_eq!(message.add(&mut rest), Ok(Some((1, b"ab".to_vec()))));
        assert_eq!(rest, b"c");
        assert_eq!(message.add(&mut &b"\x01\xff\xff\xff"[..]), Err(Garbled));
    }
}
