//! What keeps a panic in the module: unwinding into Envoy's C++ would end the node's proxy.

use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::abi::LOG_CRITICAL;
use crate::log::log;

/// The result of `hook`, or `otherwise` if it panics. State that a panic left half-changed must not be used again: who
/// holds it (see `network_hooks`) marks it as broken.
pub fn guarded<T>(otherwise: T, hook: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(hook)).unwrap_or(otherwise)
}

/// Have panics told in Envoy's log; by default they go to stderr, without a level.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        log(LOG_CRITICAL, &format!("lockgate: {panic}"));
    }));
}

#[cfg(test)]
mod tests {
    use super::guarded;

    #[test]
    fn a_panic_ends_in_the_fallback() {
        assert_eq!(guarded(7, || panic!("on purpose")), 7);
        assert_eq!(guarded(7, || 1), 1);
    }
}
