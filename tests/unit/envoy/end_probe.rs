//! How the module writes an end, as a program for a test in Python: lines `IDENTITY true|false SHARDS` on standard input,
//! on output the text of each and what the module reads there.
#![allow(dead_code)]

#[path = "../../../envoy/module/end.rs"]
mod end;
#[path = "../../../envoy/module/text.rs"]
mod text;

use std::io::stdin;

fn main() {
    println!("{} {}", end::SOURCE, end::DESTINATION);
    for line in stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let (identity, here, shards) = (words[0].parse().unwrap(), words[1] == "true", words[2].parse().unwrap());
        let written = end::written(identity, here, shards);
        let text = std::str::from_utf8(written.as_bytes()).unwrap();
        println!("{} {:?}", text, end::read(text));
    }
}
