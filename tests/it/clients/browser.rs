//! A headless browser, driven over a pipe by the `DevTools` protocol.

use std::collections::HashSet;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use crate::harness::within;

/// Time limit of one step on a busy machine, in seconds.
const PATIENCE: u64 = 90;

/// Returns the browser's command-line options. It keeps its state in the folder `profile`.
pub fn flags(profile: &Path) -> impl Iterator<Item = String> + Clone {
    let flags = [
        "--headless=new",
        // The sandbox needs privileges that few containers grant.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        // Only the page uses the network, and nothing waits for a desktop.
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--no-default-browser-check",
        "--no-proxy-server",
        "--password-store=basic",
    ];
    flags.into_iter().map(str::to_owned).chain([format!("--user-data-dir={}", profile.display())])
}

/// A browser with one page.
pub struct Browser {
    child: Child,
    /// All processes of the browser share one standard error, which ends with the last of them.
    all_gone: JoinHandle<()>,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The session of the page.
    session: Value,
    calls: u64,
    /// Events that were received and not consumed yet.
    events: Vec<Value>,
}

impl Browser {
    /// Starts `program`, which keeps its state between visits in the folder `profile`.
    pub async fn start(program: &str, profile: &Path) -> Self {
        // The pipe must be descriptors 3 and 4. Without `unsafe`, only a shell can set them up.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>&2", program]);
        command.args(flags(profile)).args(["--remote-debugging-pipe", "about:blank"]).env("HOME", profile);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut errors = child.stderr.take().unwrap();
        let all_gone = tokio::spawn(async move {
            tokio::io::copy(&mut errors, &mut tokio::io::sink()).await.unwrap();
        });
        let mut browser = Self { child, all_gone, input, output, session: Value::Null, calls: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        browser.session = browser.call("Target.attachToTarget", attach).await["sessionId"].take();
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Loads `url`, and returns the events until the page was complete.
    pub async fn visit(&mut self, url: &str) -> Vec<Value> {
        self.load("Page.navigate", json!({ "url": url })).await
    }

    /// Loads the page again, bypassing the browser's own cache.
    pub async fn reload_hard(&mut self) -> Vec<Value> {
        self.load("Page.reload", json!({ "ignoreCache": true })).await
    }

    /// Begins to load a page, and waits for the page and for the requests of its script.
    async fn load(&mut self, method: &str, parameters: Value) -> Vec<Value> {
        self.events.clear();
        self.call(method, parameters).await;
        self.until(|events| events.iter().any(|event| event["method"] == "Page.loadEventFired")).await;
        self.until(all_ended).await;
        std::mem::take(&mut self.events)
    }

    /// Evaluates an expression in the page, and awaits it if it is a promise.
    pub async fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut result = self.call("Runtime.evaluate", parameters).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Closes the browser as its user would, so that its profile is complete on disk.
    pub async fn close(mut self) {
        self.session = Value::Null;
        self.call("Browser.close", json!({})).await;
        within(PATIENCE, self.child.wait()).await.unwrap();
        within(PATIENCE, self.all_gone).await.unwrap();
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut call = json!({ "id": self.calls, "method": method, "params": parameters });
        if !self.session.is_null() {
            call["sessionId"] = self.session.clone();
        }
        self.input.write_all(format!("{call}\0").as_bytes()).await.unwrap();
        loop {
            let mut message = self.next().await;
            if message["id"] == self.calls {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    async fn until(&mut self, enough: impl Fn(&[Value]) -> bool) {
        while !enough(&self.events) {
            let event = self.next().await;
            self.events.push(event);
        }
    }

    async fn next(&mut self) -> Value {
        let mut message = Vec::new();
        within(PATIENCE, self.output.read_until(0, &mut message)).await.unwrap();
        assert_eq!(message.pop(), Some(0), "the browser has ended");
        serde_json::from_slice(&message).unwrap()
    }
}

/// Returns the parameters of the network events of one kind.
fn network_events<'a>(events: &'a [Value], method: &str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["method"] == method).map(|event| &event["params"])
}

/// Returns true if every request that the page began has ended or failed.
fn all_ended(events: &[Value]) -> bool {
    let ended: HashSet<_> = ["Network.loadingFinished", "Network.loadingFailed"]
        .into_iter()
        .flat_map(|method| network_events(events, method))
        .map(|event| event["requestId"].as_str())
        .collect();
    let answered: HashSet<_> =
        network_events(events, "Network.responseReceived").map(|event| event["requestId"].as_str()).collect();
    network_events(events, "Network.requestWillBeSent").all(|sent| {
        let id = sent["requestId"].as_str();
        // The browser reports the end of a response without a body only when it is released.
        ended.contains(&id) || sent["request"]["method"] == "HEAD" && answered.contains(&id)
    })
}

/// Returns the paths that came from the browser's own cache, sorted and each once: the browser
/// may request an image for its tab as well.
pub fn from_browser_cache(events: &[Value]) -> Vec<String> {
    let responses = network_events(events, "Network.responseReceived").map(|event| &event["response"]);
    let kept = responses.filter(|response| response["fromDiskCache"] == true);
    let url = |response: &Value| response["url"].as_str().unwrap().parse::<http::Uri>().unwrap();
    let mut paths: Vec<_> = kept.map(|response| url(response).path().to_owned()).collect();
    paths.sort();
    paths.dedup();
    paths
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Returns the protocol of each response, and the version of TLS.
pub fn protocols(events: &[Value]) -> Vec<(&str, &str)> {
    let responses = network_events(events, "Network.responseReceived").map(|event| &event["response"]);
    responses.map(|response| (text(&response["protocol"]), text(&response["securityDetails"]["protocol"]))).collect()
}

/// Adds the authority in a PEM file to those that a browser with this profile trusts.
pub fn trust(profile: &Path, authority: &Path) {
    let store = profile.join(".pki/nssdb");
    std::fs::create_dir_all(&store).unwrap();
    let store = format!("sql:{}", store.display());
    let add = ["-A", "-n", "test authority", "-t", "C,,", "-i", authority.to_str().unwrap()];
    for arguments in [&["-N", "--empty-password"][..], &add] {
        let status = std::process::Command::new("certutil").args(["-d", &store]).args(arguments).status();
        let status = status.expect("certutil cannot be run: install Debian's package libnss3-tools");
        assert!(status.success(), "certutil {arguments:?}");
    }
}

/// Returns the events that the page's author would see as errors.
pub fn errors(events: &[Value]) -> Vec<&Value> {
    let is_error = |event: &&Value| match event["method"].as_str().unwrap_or_default() {
        "Runtime.exceptionThrown" => true,
        // The browser cancels a request itself when it needs no more, as after a HEAD.
        "Network.loadingFailed" => event["params"]["canceled"] != true,
        "Runtime.consoleAPICalled" => event["params"]["type"] == "error",
        "Log.entryAdded" => event["params"]["entry"]["level"] == "error",
        _ => false,
    };
    events.iter().filter(is_error).collect()
}
