//! An address of a connection, in the form in which it is known first: the client's Envoy prints, the socket's own the
//! kernel gives.

use std::convert::TryInto;
use std::net::IpAddr;

use crate::text::Text;

/// An address as Envoy prints it: at most 45 bytes.
pub type Printed = Text<45>;

/// The socket's own address, and how Envoy prints it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Own {
    octets: [u8; 16],
    printed: Printed,
}

impl Own {
    pub fn printed(&self) -> &[u8] {
        self.printed.as_bytes()
    }
}

/// What of an address ends are kept by.
pub trait Address: Copy {
    /// In which form it is asked for.
    type Asked: ?Sized;

    const NONE: Self;

    /// The address that is asked for. Only of one that has an IP address.
    fn kept(asked: &Self::Asked) -> Self;

    /// None when it is none.
    fn ip(asked: &Self::Asked) -> Option<IpAddr>;

    fn is(&self, asked: &Self::Asked) -> bool;

    /// A number that is the same for the same address, and as if by chance for another. Pods may choose addresses that
    /// belong together: that is what costs no more than a look-up.
    fn number(asked: &Self::Asked) -> u64;
}

impl Address for Printed {
    type Asked = [u8];

    const NONE: Printed = Printed::EMPTY;

    fn kept(asked: &[u8]) -> Printed {
        let text = std::str::from_utf8(asked).unwrap_or_default();
        Text::of(format_args!("{text}")).unwrap() // there is room for every address
    }

    fn ip(asked: &[u8]) -> Option<IpAddr> {
        std::str::from_utf8(asked).ok()?.parse().ok()
    }

    fn is(&self, asked: &[u8]) -> bool {
        self.as_bytes() == asked
    }

    fn number(asked: &[u8]) -> u64 {
        let mut words = asked.chunks_exact(8);
        let whole = words.by_ref().fold(asked.len() as u64, |number, word| {
            mixed(number, u64::from_le_bytes(word.try_into().unwrap()))
        });
        let rest = words.remainder();
        mixed(whole, rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)))
    }
}

impl Address for Own {
    type Asked = IpAddr;

    const NONE: Own = Own {
        octets: [0; 16],
        printed: Printed::EMPTY,
    };

    fn kept(asked: &IpAddr) -> Own {
        Own {
            octets: octets(asked),
            printed: Text::of(format_args!("{asked}")).unwrap(), // there is room for every address
        }
    }

    fn ip(asked: &IpAddr) -> Option<IpAddr> {
        Some(*asked)
    }

    fn is(&self, asked: &IpAddr) -> bool {
        self.octets == octets(asked)
    }

    fn number(asked: &IpAddr) -> u64 {
        let whole = u128::from_be_bytes(octets(asked)); // what neighbours differ by comes last
        mixed(mixed(0, (whole >> 64) as u64), whole as u64)
    }
}

/// The sixteen bytes of an address; an IPv4 address stands below ::ffff:0:0/96.
pub fn octets(address: &IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn mixed(number: u64, word: u64) -> u64 {
    let number = (number ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    number ^ number >> 29
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const ADDRESSES: [&str; 8] = [
        "0.0.0.0",
        "10.1.2.3",
        "255.255.255.255",
        "::",
        "fd00:0:0:1::",
        "::ffff:255.255.255.255",
        "fd00:1111:2222:3333:4444:5555:6666:7777",
        "1111:1111:2222:3333:4444:5555:6666:7777",
    ];

    #[test]
    fn an_address_is_itself_and_no_other_in_both_forms() {
        for one in ADDRESSES {
            let (text, ip) = (one.as_bytes(), one.parse::<IpAddr>().unwrap());
            assert_eq!((Printed::ip(text), Own::ip(&ip)), (Some(ip), Some(ip)));
            let (printed, own) = (Printed::kept(text), Own::kept(&ip));
            assert_eq!((printed.as_bytes(), own.printed()), (text, text));
            for other in ADDRESSES {
                let there = other.parse::<IpAddr>().unwrap();
                assert_eq!(printed.is(other.as_bytes()), one == other);
                assert_eq!(own.is(&there), octets(&ip) == octets(&there));
            }
        }
    }

    #[test]
    fn what_is_no_address_is_none() {
        for wrong in [
            &b""[..],
            b"10.1.2",
            b"10.1.2.3:80",
            b"fe80::1%eth0",
            b"/run/socket",
            b"\xff",
        ] {
            assert_eq!(Printed::ip(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn numbers_of_neighbours_have_nothing_in_common() {
        let printed: HashSet<u64> = (0..4096)
            .map(|n| Printed::number(format!("fd00::{n:x}").as_bytes()) % 4096)
            .collect();
        let own: HashSet<u64> = (0..4096u32)
            .map(|n| Own::number(&IpAddr::from((167_772_160 + n).to_be_bytes())) % 4096)
            .collect();
        assert!(
            printed.len() > 2048 && own.len() > 2048,
            "{} {}",
            printed.len(),
            own.len()
        );
    }
}
