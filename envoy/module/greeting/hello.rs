//! What the greetings of both ends say, as far as it matters here.
//! https://www.rfc-editor.org/rfc/rfc8446#section-4.1

pub const CLIENT_HELLO: u8 = 1;
pub const SERVER_HELLO: u8 = 2;

const SERVER_NAME: u16 = 0;
const SUPPORTED_VERSIONS: u16 = 43;
const HOST_NAME: u8 = 0;
const TLS_1_2: u16 = 0x0303;
const TLS_1_3: &[u8] = &[3, 4];
/// The SHA-256 of "HelloRetryRequest", which stands where a server's random would.
const ASKS_AGAIN: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// How a server answers a greeting: with the wish for a second one, or in TLS 1.3, after which a client cannot greet any
/// more, or in an older version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Again,
    Modern,
    Old,
}

/// The one server name of a ClientHello's body (https://www.rfc-editor.org/rfc/rfc6066#section-3); None where it has none,
/// or several, or is garbled.
pub fn server_name(hello: &[u8]) -> Option<&[u8]> {
    let mut rest = Reader(hello);
    rest.take(2 + 32)?; // version, random
    rest.vector(1)?; // session
    rest.vector(2)?; // cipher suites
    rest.vector(1)?; // compression
    let mut named = rest.extensions()?.filter(|(kind, _)| *kind == SERVER_NAME);
    let (_, list) = named.next()?;
    if named.next().is_some() {
        return None;
    }
    let mut list = Reader(Reader(list).all(2)?);
    (list.take(1)? == [HOST_NAME]).then_some(())?;
    list.all(2)
}

impl Answer {
    /// Of a ServerHello's body; None where it is garbled.
    pub fn read(hello: &[u8]) -> Option<Answer> {
        let mut rest = Reader(hello);
        let version = rest.number()?;
        let random = rest.take(32)?;
        if version < TLS_1_2 {
            return Some(Answer::Old);
        }
        if random == ASKS_AGAIN {
            return Some(Answer::Again);
        }
        rest.vector(1)?; // session
        rest.take(2 + 1)?; // cipher suite, compression
        if rest.0.is_empty() {
            return Some(Answer::Old); // it may end here
        }
        let modern = rest
            .extensions()?
            .any(|(kind, body)| kind == SUPPORTED_VERSIONS && body == TLS_1_3);
        Some(if modern { Answer::Modern } else { Answer::Old })
    }
}

struct Reader<'d>(&'d [u8]);

impl<'d> Reader<'d> {
    fn take(&mut self, length: usize) -> Option<&'d [u8]> {
        let taken = self.0.get(..length)?;
        self.0 = &self.0[length..];
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What has its length in `size` bytes before it.
    fn vector(&mut self, size: usize) -> Option<&'d [u8]> {
        let length = self
            .take(size)?
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        self.take(length)
    }

    /// The same, with nothing behind it.
    fn all(mut self, size: usize) -> Option<&'d [u8]> {
        let whole = self.vector(size)?;
        self.0.is_empty().then_some(whole)
    }

    /// Kinds and bodies, to the end.
    fn extensions(self) -> Option<std::vec::IntoIter<(u16, &'d [u8])>> {
        let mut rest = Reader(self.all(2)?);
        let mut found = Vec::new();
        while !rest.0.is_empty() {
            found.push((rest.number()?, rest.vector(2)?));
        }
        Some(found.into_iter())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn vector(size: usize, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.len().to_be_bytes()[8 - size..].to_vec();
        out.extend(bytes);
        out
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector(2, body)].concat()
    }

    /// The body of a ClientHello with a server_name extension for each of `named`, which list names.
    pub fn client_hello(named: &[&[&str]]) -> Vec<u8> {
        let mut extensions = extension(10, b"\x00\x02\x00\x1d");
        for names in named {
            let list: Vec<u8> = names
                .iter()
                .flat_map(|name| [vec![HOST_NAME], vector(2, name.as_bytes())].concat())
                .collect();
            extensions.extend(extension(SERVER_NAME, &vector(2, &list)));
        }
        let mut out = vec![3, 3];
        out.extend([7; 32]);
        out.extend([0]);
        out.extend(vector(2, &[0x13, 1]));
        out.extend(vector(1, &[0]));
        out.extend(vector(2, &extensions));
        out
    }

    /// The body of a ServerHello.
    pub fn server_hello(answer: Answer) -> Vec<u8> {
        let mut out = vec![3, 3];
        out.extend(if answer == Answer::Again { ASKS_AGAIN } else { [9; 32] });
        out.extend([0, 0x13, 1, 0]);
        let extensions = match answer {
            Answer::Old => extension(0xff01, &[0]),
            _ => extension(SUPPORTED_VERSIONS, TLS_1_3),
        };
        out.extend(vector(2, &extensions));
        out
    }

    #[test]
    fn the_name_is_the_only_one() {
        assert_eq!(server_name(&client_hello(&[&["a.example"]])), Some(&b"a.example"[..]));
        for named in [
            &[][..],
            &[&[][..]],
            &[&["a.example", "b.example"]],
            &[&["a.example"], &["b.example"]],
        ] {
            assert_eq!(server_name(&client_hello(named)), None, "{named:?}");
        }
    }

    #[test]
    fn what_is_cut_off_has_none() {
        let hello = client_hello(&[&["a.example"]]);
        for length in 0..hello.len() {
            assert_eq!(server_name(&hello[..length]), None);
        }
        assert_eq!(server_name(&[&hello[..], b"x"].concat()), None);
    }

    #[test]
    fn answers() {
        for answer in [Answer::Again, Answer::Modern, Answer::Old] {
            assert_eq!(Answer::read(&server_hello(answer)), Some(answer));
        }
        let old = server_hello(Answer::Old);
        assert_eq!(
            Answer::read(&old[..38]),
            Some(Answer::Old),
            "as servers of TLS 1.0 may end it"
        );
        assert_eq!(Answer::read(&old[..37]), None);
        assert_eq!(Answer::read(b"\x03"), None);
    }
}
