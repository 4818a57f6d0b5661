//! Kafka's primitive types, read from a frame of which only the first part may have come, and written.
//!
//! https://kafka.apache.org/protocol#protocol_types. Nothing here trusts a length: it is compared with the frame's end
//! before anything is done with it.

/// Why reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The frame goes on behind what has come so far.
    Short,
    /// It contradicts itself or its own length.
    Malformed,
}

/// A place in a frame. `data` is what has come of it, `end` where it ends; both count from the frame's length prefix.
pub struct Reader<'a> {
    data: &'a [u8],
    end: usize,
    at: usize,
}

impl<'a> Reader<'a> {
    #[inline]
    pub fn new(data: &'a [u8], end: usize, at: usize) -> Reader<'a> {
        Reader { data, end, at }
    }

    /// Where the next value starts.
    #[inline]
    pub fn at(&self) -> usize {
        self.at
    }

    /// How much of the frame is left.
    #[inline]
    pub fn left(&self) -> usize {
        self.end.saturating_sub(self.at)
    }

    /// Go over `length` bytes, which need not have come yet.
    #[inline]
    pub fn skip(&mut self, length: usize) -> Result<(), Trouble> {
        if length > self.left() {
            return Err(Trouble::Malformed);
        }
        self.at += length;
        Ok(())
    }

    /// The next `length` bytes.
    #[inline]
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Trouble> {
        let start = self.at;
        self.skip(length)?;
        match self.data.get(start..self.at) {
            Some(bytes) => Ok(bytes),
            None => {
                self.at = start;
                Err(Trouble::Short)
            }
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Trouble> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    #[inline]
    pub fn i8(&mut self) -> Result<i8, Trouble> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    #[inline]
    pub fn i16(&mut self) -> Result<i16, Trouble> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    #[inline]
    pub fn i32(&mut self) -> Result<i32, Trouble> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    #[inline]
    pub fn uuid(&mut self) -> Result<[u8; 16], Trouble> {
        self.array()
    }

    /// UNSIGNED_VARINT: at most 32 bits.
    #[inline]
    pub fn varint(&mut self) -> Result<u32, Trouble> {
        match self.data.get(self.at) {
            Some(byte) if *byte < 0x80 && self.at < self.end => {
                self.at += 1;
                Ok(u32::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u32, Trouble> {
        let mut value: u32 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = u32::from(self.take(1)?.first().copied().unwrap_or(0));
            if shift == 28 && byte > 0x0f {
                return Err(Trouble::Malformed);
            }
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Trouble::Malformed)
    }

    /// The length of a string, bytes or an array; None is null. `wide`: four bytes, where it is not compact.
    #[inline]
    pub fn length(&mut self, flexible: bool, wide: bool) -> Result<Option<usize>, Trouble> {
        if flexible {
            return Ok((self.varint()? as usize).checked_sub(1));
        }
        let length = if wide { self.i32()? } else { i32::from(self.i16()?) };
        match length {
            -1 => Ok(None),
            _ => usize::try_from(length).map(Some).map_err(|_| Trouble::Malformed),
        }
    }

    /// STRING, NULLABLE_STRING and their compact kinds.
    #[inline]
    pub fn string(&mut self, flexible: bool) -> Result<Option<&'a [u8]>, Trouble> {
        match self.length(flexible, false)? {
            Some(length) => self.take(length).map(Some),
            None => Ok(None),
        }
    }

    /// Tagged fields, which say nothing that a policy asks for.
    #[inline]
    pub fn tags(&mut self, flexible: bool) -> Result<(), Trouble> {
        if !flexible {
            return Ok(());
        }
        match self.varint()? as usize {
            0 => Ok(()),
            count => self.some_tags(count),
        }
    }

    fn some_tags(&mut self, count: usize) -> Result<(), Trouble> {
        if count > self.left() {
            return Err(Trouble::Malformed);
        }
        for _ in 0..count {
            self.varint()?;
            let size = self.varint()? as usize;
            self.skip(size)?;
        }
        Ok(())
    }
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The length of a string (`wide` false), of bytes or of an array; None is null.
pub fn put_length(out: &mut Vec<u8>, length: Option<usize>, flexible: bool, wide: bool) {
    if flexible {
        put_varint(out, length.map_or(0, |length| length as u32 + 1));
    } else if wide {
        out.extend_from_slice(&length.map_or(-1, |length| length as i32).to_be_bytes());
    } else {
        out.extend_from_slice(&length.map_or(-1, |length| length as i16).to_be_bytes());
    }
}

pub fn put_string(out: &mut Vec<u8>, text: Option<&[u8]>, flexible: bool) {
    put_length(out, text.map(<[u8]>::len), flexible, false);
    out.extend_from_slice(text.unwrap_or(&[]));
}

/// A frame with a place for its length, and its correlation id.
pub fn begin_frame(correlation: i32) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend_from_slice(&correlation.to_be_bytes());
    out
}

/// Writes the length of a frame that is whole.
pub fn end_frame(mut frame: Vec<u8>) -> Vec<u8> {
    let length = (frame.len().saturating_sub(4) as i32).to_be_bytes();
    if let Some(place) = frame.get_mut(..4) {
        place.copy_from_slice(&length);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_come_is_short_and_what_cannot_come_is_malformed() {
        let mut reader = Reader::new(&[0, 5, b'a'], 7, 0);
        assert_eq!(reader.string(false), Err(Trouble::Short));
        let mut reader = Reader::new(&[0, 6, b'a'], 7, 0);
        assert_eq!(reader.string(false), Err(Trouble::Malformed));
        let mut reader = Reader::new(&[0x80, 0], 2, 0);
        assert_eq!(reader.i16(), Ok(-32768));
        assert_eq!(reader.left(), 0);
    }

    #[test]
    fn a_negative_length_is_null_only_at_minus_one() {
        assert_eq!(Reader::new(&[255, 255], 2, 0).string(false), Ok(None));
        assert_eq!(Reader::new(&[255, 254], 2, 0).string(false), Err(Trouble::Malformed));
        assert_eq!(Reader::new(&[0], 1, 0).string(true), Ok(None));
        assert_eq!(Reader::new(&[1], 1, 0).string(true), Ok(Some(&b""[..])));
    }

    #[test]
    fn varints_have_32_bits() {
        for value in [0, 1, 127, 128, 300, u32::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(Reader::new(&out, out.len(), 0).varint(), Ok(value));
        }
        let long = [0xff, 0xff, 0xff, 0xff, 0x1f];
        assert_eq!(Reader::new(&long, 5, 0).varint(), Err(Trouble::Malformed));
        let endless = [0xff; 9];
        assert_eq!(Reader::new(&endless, 9, 0).varint(), Err(Trouble::Malformed));
    }

    #[test]
    fn tagged_fields_are_gone_over() {
        let data = [2, 0, 3, 1, 2, 3, 7, 0, 9];
        let mut reader = Reader::new(&data, data.len(), 0);
        assert_eq!(reader.tags(true), Ok(()));
        assert_eq!(reader.at(), 8);
        let lie = [1, 0, 200];
        assert_eq!(Reader::new(&lie, 3, 0).tags(true), Err(Trouble::Malformed));
    }
}
