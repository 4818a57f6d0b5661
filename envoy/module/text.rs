//! A short text without an allocation: written from its end on, so that numbers need no turning round.

use std::io::Write;
use std::net::IpAddr;

/// The text, and room before it: ROOM in all, a power of two, so that no index need be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<const ROOM: usize> {
    room: [u8; ROOM],
    start: u8,
}

/// An address as Envoy prints it: at most 45 bytes.
pub type AddressText = Text<64>;

impl AddressText {
    pub fn of(address: IpAddr) -> AddressText {
        let mut written = AddressText::new();
        match address {
            IpAddr::V4(v4) => {
                let [first, rest @ ..] = v4.octets();
                for octet in rest.into_iter().rev() {
                    written.put_number(octet.into());
                    written.put(b'.');
                }
                written.put_number(first.into());
            }
            IpAddr::V6(v6) => {
                let mut forward = [0; 64];
                let mut rest = &mut forward[..];
                let _ = write!(rest, "{v6}"); // there is room
                let unused = rest.len();
                written.put_all(&forward[..forward.len() - unused]);
            }
        }
        written
    }
}

impl<const ROOM: usize> Text<ROOM> {
    pub fn new() -> Self {
        Text {
            room: [0; ROOM],
            start: ROOM as u8,
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.room[usize::from(self.start) % ROOM..]
    }

    /// These before what is there.
    pub fn put_all(&mut self, letters: &[u8]) {
        for letter in letters.iter().rev() {
            self.put(*letter);
        }
    }

    pub fn put(&mut self, letter: u8) {
        self.start -= 1;
        self.room[usize::from(self.start) % ROOM] = letter;
    }

    pub fn put_number(&mut self, mut number: u32) {
        loop {
            self.put(b'0' + (number % 10) as u8);
            number /= 10;
            if number == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_the_standard_library_does() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "127.0.0.1",
            "100.200.99.9",
            "255.255.255.255",
            "::",
            "::1",
            "fd00::7",
            "::ffff:255.255.255.255",
            "fd00:0:0:1::",
            "fd00:1111:2222:3333:4444:5555:6666:7777",
        ] {
            let parsed: IpAddr = address.parse().unwrap();
            assert_eq!(AddressText::of(parsed).as_bytes(), address.as_bytes());
            assert_eq!(parsed.to_string(), address);
        }
    }

    #[test]
    fn a_number_is_written_in_digits() {
        for number in [0, 9, 10, 99, 100, 70_103, u32::MAX] {
            let mut text = Text::<16>::new();
            text.put_number(number);
            assert_eq!(text.as_bytes(), number.to_string().as_bytes());
        }
    }
}
