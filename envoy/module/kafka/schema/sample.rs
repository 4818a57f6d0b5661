//! Requests made up from the table: valid in form, arbitrary in content.

use super::super::wire::{put_length, put_string, put_varint};
use super::{Api, Field, Kind, Many};

/// A source of choices: a number below its argument.
pub type Choose<'a> = dyn FnMut(usize) -> usize + 'a;

impl Api {
    /// A whole request in `version`. Topics are called one of `names`; no other text is.
    pub fn sample(&self, version: i16, correlation: i32, names: &[&str], choose: &mut Choose) -> Vec<u8> {
        let flexible = self.is_flexible(version);
        let mut out = vec![0; 4];
        out.extend(self.key.to_be_bytes());
        out.extend(version.to_be_bytes());
        out.extend(correlation.to_be_bytes());
        put_string(&mut out, Some(b"app"), false);
        if flexible {
            tags(&mut out, choose);
        }
        self.write(&self.request, version, names, choose, &mut out);
        if flexible {
            tags(&mut out, choose);
        }
        let length = (out.len() - 4) as i32;
        out[..4].copy_from_slice(&length.to_be_bytes());
        out
    }

    fn write(&self, fields: &[Field], version: i16, names: &[&str], choose: &mut Choose, out: &mut Vec<u8>) {
        let flexible = self.is_flexible(version);
        for field in fields {
            if !field.is_in(version) {
                continue;
            }
            match &field.kind {
                Kind::Number(size, _) => out.extend((0..*size).map(|_| choose(256) as u8)),
                Kind::Text(_) | Kind::Key | Kind::Transaction => {
                    put_string(out, Some(&b"texts"[..choose(6)]), flexible)
                }
                Kind::Pattern => put_string(out, None, flexible),
                Kind::Bytes(_) => {
                    let length = if choose(8) == 0 { choose(3000) } else { choose(20) };
                    put_length(out, Some(length), flexible, true);
                    out.extend((0..length).map(|_| choose(256) as u8));
                }
                // By id some topics have no name.
                Kind::Name => put_string(out, Some(names[choose(names.len())].as_bytes()), flexible),
                Kind::Id => out.extend([choose(3) as u8; 16]),
                Kind::Index => out.extend((choose(4) as i32).to_be_bytes()),
                Kind::ItemKind => out.push(choose(4) as u8),
                Kind::Acks => out.extend((choose(3) as i16 - 1).to_be_bytes()),
                Kind::Session => out.extend((i32::from(choose(4) == 0)).to_be_bytes()),
                Kind::Epoch => out.extend((choose(3) as i32 - 1).to_be_bytes()),
                Kind::Array { many, structs, fields } => {
                    let null = matches!(many, Many::Topics { null_is_all: true }) && choose(6) == 0;
                    let count = if null { 0 } else { choose(4) };
                    put_length(out, if null { None } else { Some(count) }, flexible, true);
                    for _ in 0..count {
                        self.write(fields, version, names, choose, out);
                        if *structs && flexible {
                            tags(out, choose);
                        }
                    }
                }
                Kind::Empty(_) | Kind::NoStruct | Kind::Error => {}
            }
        }
    }
}

fn tags(out: &mut Vec<u8>, choose: &mut Choose) {
    let count = choose(8).saturating_sub(6);
    put_varint(out, count as u32);
    for tag in 0..count {
        put_varint(out, tag as u32);
        let size = choose(200);
        put_varint(out, size as u32);
        out.extend((0..size).map(|_| choose(256) as u8));
    }
}
