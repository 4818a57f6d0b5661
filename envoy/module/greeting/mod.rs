//! A TLS connection that is carried end to end is judged once, by the server name of its greeting. So the client may not
//! call another server afterwards: neither in the second greeting that a server of TLS 1.3 can ask for, nor by greeting
//! anew inside the encryption (renegotiation, up to TLS 1.2), where nobody but the server would see the name.

mod hello;
mod record;
mod watch;

use crate::abi::{ConnectionEvent, CLOSE_NO_FLUSH};
use crate::connection::Connection;
use crate::network_hooks::{Counters, NetworkConfig, NetworkFilter, Step};

use watch::Watch;

/// There is nothing to be set.
pub fn config(_: &[u8]) -> Result<Box<dyn NetworkConfig>, String> {
    Ok(Box::new(Config { ended: None }))
}

struct Config {
    ended: Option<usize>,
}

impl NetworkConfig for Config {
    fn define_counters(&mut self, counters: &Counters) {
        self.ended = counters.define("lockgate_greetings_ended");
    }

    fn new_filter(&self) -> Box<dyn NetworkFilter> {
        Box::new(Filter {
            watch: None,
            ended: self.ended,
        })
    }
}

struct Filter {
    /// Not before the first byte.
    watch: Option<Watch>,
    ended: Option<usize>,
}

impl NetworkFilter for Filter {
    fn new_connection(&mut self, _: &Connection) -> Step {
        Step::Continue
    }

    fn read(&mut self, connection: &Connection, _: usize, _: bool) -> Step {
        // Without a name the connection was let in whatever it is.
        let watch = self.watch.get_or_insert_with(|| match connection.server_name() {
            Some(name) => Watch::of(name),
            None => Watch::nothing(),
        });
        if watch.is_over() {
            return Step::Continue;
        }
        for chunk in connection.read_chunks().iter() {
            if let Err(fault) = watch.client(chunk) {
                connection.count(self.ended);
                connection.close(CLOSE_NO_FLUSH, fault.details());
                return Step::Stop;
            }
        }
        Step::Continue
    }

    fn write(&mut self, connection: &Connection, _: usize, _: bool) -> Step {
        if let Some(watch) = self.watch.as_mut().filter(|watch| watch.awaits_server()) {
            for chunk in connection.write_chunks().iter() {
                watch.server(chunk);
            }
        }
        Step::Continue
    }

    fn event(&mut self, _: &Connection, _: ConnectionEvent) {}
}
