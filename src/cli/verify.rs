//! `peerage verify`: checks contents against the digests in their names.

use std::path::Path;

use futures_util::stream::{self, StreamExt};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::BodyExt;
use tokio::fs::File;

use super::arguments::ConfigArguments;
use super::client::{FIRST_BYTE, TIMEOUTS};
use super::contents::{blocks, digest};
use super::failure::Failure;
use super::manifest;
use super::process::{print, runtime};
use crate::body::Body;
use crate::config::Config;
use crate::key::AssetKey;
use crate::origin::Origin;
use crate::origin::http_origin::HttpOrigin;
use crate::semantics::digest::Expected;
use crate::site::rules::Rule;
use crate::tls::ClientSettings;
use crate::upstream::{Framing, Reply};

/// Number of targets read at a time.
const CONCURRENCY: usize = 8;

#[derive(clap::Args)]
pub(super) struct Verify {
    /// Files, and http:// URLs
    #[arg(required = true, value_name = "URL|FILE")]
    targets: Vec<String>,
    #[command(flatten)]
    config: ConfigArguments,
}

/// The result for one target.
enum Verdict {
    Match(Expected),
    /// The expected digest, and the found one in the same length.
    Wrong(Expected, String),
    Unknown,
}

/// The number of targets of each kind.
#[derive(Default)]
struct Tally {
    ok: usize,
    wrong: usize,
    failed: Vec<Failure>,
}

impl Verify {
    pub(super) fn run(self) -> Result<(), Failure> {
        let rules = self.rules()?;
        runtime(0)?.block_on(self.verify(&rules))
    }

    fn rules(&self) -> Result<Vec<Rule>, Failure> {
        let rules = match self.config.load_if_any()? {
            Some(config) => config.rules(),
            None => Config::default().rules().and_then(|rules| Ok([rules, manifest::rules()?].concat())),
        };
        rules.map_err(Failure::Usage)
    }

    async fn verify(&self, rules: &[Rule]) -> Result<(), Failure> {
        let verdicts = stream::iter(&self.targets).map(async |target| (target, verdict(target, rules).await));
        let mut verdicts = Box::pin(verdicts.buffered(CONCURRENCY));
        let mut tally = Tally::default();
        while let Some((target, verdict)) = verdicts.next().await {
            print(&tally.line(target, verdict))?;
        }
        tally.outcome(self.targets.len())
    }
}

impl Tally {
    /// Counts a verdict, and returns its line.
    fn line(&mut self, target: &str, verdict: Result<Verdict, Failure>) -> String {
        match verdict {
            Ok(Verdict::Match(expected)) => {
                self.ok += 1;
                format!("ok      {target}  {expected}\n")
            }
            Ok(Verdict::Wrong(expected, found)) => {
                self.wrong += 1;
                format!("WRONG   {target}  expected {expected}, found {found}\n")
            }
            Ok(Verdict::Unknown) => format!("unknown {target}  no rule matches\n"),
            Err(failure) => {
                let line = format!("failed  {target}  {failure}\n");
                self.failed.push(failure);
                line
            }
        }
    }

    fn outcome(self, targets: usize) -> Result<(), Failure> {
        let failed = self.failed.len();
        if self.wrong > 0 {
            return Err(Failure::Difference(format!("{} of {targets} targets are wrong", self.wrong)));
        }
        match self.failed.into_iter().next() {
            Some(Failure::Unavailable(_)) => {
                Err(Failure::Unavailable(format!("{failed} of {targets} targets are unavailable")))
            }
            Some(_) => Err(Failure::Usage(format!("{failed} of {targets} targets cannot be read"))),
            None if self.ok == 0 => Err(Failure::Difference(
                "no rule matches these names; add [[immutable]] rules to the configuration".to_owned(),
            )),
            None => Ok(()),
        }
    }
}

async fn verdict(target: &str, rules: &[Rule]) -> Result<Verdict, Failure> {
    if target.contains("://") { verdict_on_url(target, rules).await } else { verdict_on_file(target, rules).await }
}

async fn verdict_on_file(file: &str, rules: &[Rule]) -> Result<Verdict, Failure> {
    let unreadable = |error: std::io::Error| Failure::Usage(error.to_string());
    let contents = File::open(file).await.map_err(unreadable)?;
    let Some(expected) = expected(&manifest::target(Path::new(file)), rules) else {
        return Ok(Verdict::Unknown);
    };
    let (digest, _) = digest(blocks(contents), expected.algorithm).await.map_err(unreadable)?;
    Ok(compare(expected, &digest))
}

async fn verdict_on_url(url: &str, rules: &[Rule]) -> Result<Verdict, Failure> {
    let uri: Uri = url.parse().map_err(|error| Failure::Usage(format!("invalid URL: {error}")))?;
    let key = AssetKey::from_uri(&uri, usize::MAX).map_err(|error| Failure::Usage(error.to_string()))?;
    let Reply { response, framing, .. } = get(&uri).await?;
    let Some(expected) = expected(key.path(), rules) else {
        return Ok(Verdict::Unknown);
    };
    let blocks = response.into_body().into_data_stream();
    let unavailable = |error: crate::error::Error| Failure::Unavailable(error.to_string());
    let (digest, _) = digest(blocks, expected.algorithm).await.map_err(unavailable)?;
    match compare(expected, &digest) {
        Verdict::Wrong(..) if framing == Framing::UntilClose => Err(Failure::Unavailable(
            "the body differs, and may be incomplete: it has no length and ended with its connection".to_owned(),
        )),
        verdict => Ok(verdict),
    }
}

/// Sends a GET that accepts no content coding.
async fn get(uri: &Uri) -> Result<Reply, Failure> {
    let server = format!("{}://{}", uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |at| at.as_str()));
    let server = server.parse().map_err(|error| Failure::Usage(format!("invalid URL: {error}")))?;
    let origin =
        HttpOrigin::new(&server, &ClientSettings::default(), TIMEOUTS, FIRST_BYTE, 1).map_err(Failure::Usage)?;
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri.path_and_query().map_or("/", |target| target.as_str()).parse().unwrap_or_default();
    request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let reply = origin.fetch(request.into()).await.map_err(|error| Failure::Unavailable(error.to_string()))?;
    let response = &reply.response;
    if response.status() != StatusCode::OK {
        return Err(Failure::Unavailable(format!("the server answered {}", response.status())));
    }
    match response.headers().get(CONTENT_ENCODING) {
        Some(coding) if coding != "identity" => {
            Err(Failure::Unavailable("the response has a content coding that was not requested".to_owned()))
        }
        _ => Ok(reply),
    }
}

/// Returns the digest that the first matching rule expects.
fn expected(path: &str, rules: &[Rule]) -> Option<Expected> {
    rules.iter().find_map(|rule| rule.expected(path))
}

fn compare(expected: Expected, digest: &[u8]) -> Verdict {
    if expected.is_met_by(digest) {
        return Verdict::Match(expected);
    }
    let mut found = expected.encoding.encode(digest);
    found.truncate(expected.text.len());
    Verdict::Wrong(expected, found)
}
