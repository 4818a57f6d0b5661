//! Lockgate's module in the node's Envoy: filters that a stock Envoy lacks. Standard library only.
//!
//! `listener_hooks` and `network_hooks` are what Envoy calls; each filter has a file of its own and is registered by its
//! name in `listener_config` or `network_config` below. Whatever bytes come from pods, no panic reaches Envoy (`guard`).

mod abi;
mod address;
// What a filter may ask of Envoy, whether one does or not.
#[allow(dead_code)]
mod connection;
mod connection_limit;
mod end;
mod ends;
mod generation;
mod greeting;
mod guard;
mod heap;
mod identity;
mod ipcache;
mod kafka;
mod kept;
#[allow(dead_code)]
mod listener_hooks;
mod log;
mod made_by;
#[allow(dead_code)]
mod network_hooks;
mod pinned_map;
mod socket_name;
mod text;

use std::os::raw::c_char;

use identity::Identity;
use network_hooks::NetworkConfig;

/// By these bytes module_file.py tells what a module on disk was built for and from, without loading it.
/// Exported, or the linker that Debian 12's rustc calls leaves them out.
#[no_mangle]
pub static LOCKGATE_BUILT: &str = concat!(
    "lockgate-module envoy=",
    env!("LOCKGATE_ENVOY_VERSION"),
    " abi=v0.2.0 sources=",
    env!("LOCKGATE_MODULE_SOURCES"),
    "\n"
);

/// The configuration of the listener filter called `name`: there is one, so no look-up stands between it and Envoy.
fn listener_config(name: &str, config: &[u8]) -> Result<Identity, String> {
    match name {
        "identity" => Identity::new(config),
        _ => Err(format!("there is no listener filter called {name:?}")),
    }
}

/// The configuration of the network filter called `name`.
fn network_config(name: &str, config: &[u8]) -> Result<Box<dyn NetworkConfig>, String> {
    match name {
        "lockgate.connection_limit" => connection_limit::config(config),
        "lockgate.greeting" => greeting::config(config),
        "lockgate.kafka" => kafka::config(config),
        _ => Err(format!("there is no network filter called {name:?}")),
    }
}

/// Envoy calls this once, when it loads the module.
#[no_mangle]
pub extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    guard::report_panics();
    abi::ABI_VERSION.as_ptr() as *const c_char
}
