//! A short text without an allocation.

use std::fmt::{Arguments, Error, Result, Write};

/// At most ROOM bytes, of which there may be 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<const ROOM: usize> {
    length: u8,
    room: [u8; ROOM],
}

impl<const ROOM: usize> Text<ROOM> {
    pub const EMPTY: Self = Text {
        length: 0,
        room: [0; ROOM],
    };

    /// What is formatted; None where there is no room for it.
    pub fn of(text: Arguments) -> Option<Self> {
        let mut written = Self::EMPTY;
        written.write_fmt(text).ok().map(|()| written)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.room[..usize::from(self.length)]
    }
}

impl<const ROOM: usize> Write for Text<ROOM> {
    fn write_str(&mut self, more: &str) -> Result {
        let start = usize::from(self.length);
        let end = start + more.len();
        self.room
            .get_mut(start..end)
            .ok_or(Error)?
            .copy_from_slice(more.as_bytes());
        self.length = end.try_into().map_err(|_| Error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_what_was_written() {
        let text = Text::<8>::of(format_args!("{}:{}", 70_103, "x")).unwrap();
        assert_eq!(text.as_bytes(), b"70103:x");
        assert_eq!(Text::<8>::EMPTY.as_bytes(), b"");
    }

    #[test]
    fn what_has_no_room_is_none() {
        assert_eq!(Text::<2>::of(format_args!("{}", 12)).unwrap().as_bytes(), b"12");
        assert_eq!(Text::<2>::of(format_args!("{}", 123)), None);
        assert_eq!(
            Text::<300>::of(format_args!("{:255}", 1)).unwrap().as_bytes().len(),
            255
        );
        assert_eq!(Text::<300>::of(format_args!("{:256}", 1)), None);
    }
}
