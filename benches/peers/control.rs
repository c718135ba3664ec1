//! The congestion control of all servers. How often it wakes the reader is a good part of the cost
//! of a large body.

use tokio::signal::unix::{SignalKind, signal};

/// New sockets have it, on both sides, unless their program chooses another one; none of these
/// programs does.
const SETTING: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Returns the name of the congestion control of new sockets.
pub fn current() -> String {
    std::fs::read_to_string(SETTING).unwrap_or_default().trim().to_owned()
}

/// A congestion control that is set while this lives, or until the process is interrupted.
pub struct Control {
    before: String,
}

impl Control {
    /// Sets the congestion control. Servers must start afterwards.
    pub fn set(name: &str) -> Self {
        let control = Self { before: current() };
        restore_when_interrupted(control.before.clone());
        if let Err(error) = std::fs::write(SETTING, name) {
            panic!(
                "the congestion control `{name}` cannot be set ({error}): that wants root, a kernel that has it, and \
                 in a container also that net.ipv4.tcp_allowed_congestion_control names it"
            );
        }
        control
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        restore(&self.before);
    }
}

fn restore(before: &str) {
    if let Err(error) = std::fs::write(SETTING, before) {
        eprintln!("the congestion control `{before}` was not restored: {error}");
    }
}

fn restore_when_interrupted(before: String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt()).unwrap(), signal(SignalKind::terminate()).unwrap())
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        restore(&before);
        std::process::exit(130);
    });
}
