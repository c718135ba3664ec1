//! [`Stage`]: the site, the files and the ports of the demo, and the start of its processes.

use std::path::{Path, PathBuf};

use super::configuration::configuration;
use super::credentials::Credentials;
use super::ports::Ports;
use super::process::Process;
use crate::cli::failure::Failure;
use crate::config::Period;

macro_rules! site {
    ($($name:literal)*) => { [$(($name, include_bytes!(concat!("../../../static-origin/", $name)).as_slice())),*] };
}

/// The site of the demo's origin: `static-origin` of the repository.
pub(super) static SITE: [(&str, &[u8]); 5] = site![
    "logo-3c90fca58bac4755.png"
    "index.html"
    "photo-59a1930b1c4284a8.png"
    "style-b42d312740cc2ba0.css"
    "app-f50dc1ea7277871b.js"
];

/// The files and ports of the demo's processes.
pub(super) struct Stage {
    pub(super) program: PathBuf,
    pub(super) folder: PathBuf,
    /// The folder that the origin serves.
    site: PathBuf,
    pub(super) delay: Period,
    pub(super) ports: Ports,
    pub(super) credentials: Option<Credentials>,
}

impl Stage {
    /// Writes the site to `folder`.
    pub(super) fn set(
        folder: &Path,
        ports: Ports,
        delay: Period,
        credentials: Option<Credentials>,
    ) -> Result<Self, Failure> {
        let site = folder.join("origin");
        std::fs::create_dir_all(&site)?;
        for (name, content) in SITE {
            std::fs::write(site.join(name), content)?;
        }
        Ok(Self { program: std::env::current_exe()?, folder: folder.to_owned(), site, delay, ports, credentials })
    }

    pub(super) fn start_origin(&self) -> Result<Process, Failure> {
        let listen = format!("127.0.0.1:{}", self.ports.origin());
        let (site, delay) = (self.site.to_string_lossy(), self.delay.to_string());
        let arguments = ["origin", &site, "--listen", &listen, "--delay", &delay, "--writable"].map(str::to_owned);
        Process::start("origin", &self.program, &self.folder, &arguments)
    }

    pub(super) fn start_edge(&self, number: u16) -> Result<Process, Failure> {
        let file = self.folder.join(format!("edge-{number}.toml"));
        std::fs::write(&file, configuration(self.ports, number, self.credentials.as_ref()))?;
        let arguments = ["run", "--config", &file.to_string_lossy()].map(str::to_owned);
        Process::start(&format!("edge-{number}"), &self.program, &self.folder, &arguments)
    }
}
