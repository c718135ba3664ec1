//! [`Exchange`]: requests and responses that no connection of this edge carries.

use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response};

use crate::body::Body;
use crate::edge::{Edge, Requester};
use crate::error::Error;
use crate::observe::access::Access;
use crate::observe::metrics::Source;

/// Passes the requests of the program to the edge, and counts them.
#[derive(Clone)]
pub(super) struct Exchange {
    pub(super) edge: Arc<Edge>,
    access: Arc<Access>,
}

/// A response to the program.
pub(super) struct Answered {
    pub(super) response: Response<Body>,
    /// The error that `response` states, if the edge has made it.
    pub(super) error: Option<Error>,
}

impl Exchange {
    pub(super) fn new(edge: Arc<Edge>) -> Self {
        let access = Access {
            edge: edge.name().to_owned(),
            membership: Arc::clone(edge.membership()),
            metrics: Arc::clone(edge.metrics()),
            lines: None,
        };
        Self { edge, access: Arc::new(access) }
    }

    /// Responds to a request. It is counted when the body of the response ends.
    pub(super) async fn answer(&self, source: Source, requester: Requester, request: Request<Body>) -> Answered {
        let (began, client) = (Instant::now(), requester.client);
        let pending = self.access.begin_request(client, source, &request, None, began);
        let answer = self.edge.respond(source, requester, None, request).await;
        let (details, error) = (pending.answered(), answer.record.error.clone());
        let response = self.access.log_for_program(client, (answer.record, details), answer.response, began);
        Answered { response, error }
    }
}
