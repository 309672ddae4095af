//! The span of an attempt of the rebuild task, and the report of the attempt in metrics.

use std::time::Duration;

use tracing::instrument::Instrumented;
use tracing::{Instrument, Span, field};

use crate::panics::catch;
use crate::shared::Shared;
use crate::state::{Generation, NotReady};

/// The span of an attempt. The rebuild task belongs to no request, so the span is the first one of its trace.
pub(crate) struct AttemptSpan {
    span: Span,
    /// The number of the build before the attempt.
    before: Generation,
}

impl AttemptSpan {
    pub(crate) fn new<A>(shared: &Shared<A>) -> Self {
        let settings = &shared.settings;
        // A panic of a subscriber must not end the rebuild task.
        let span = catch(|| {
            tracing::info_span!(
                target: "secretwell::auth",
                parent: None,
                "secretwell.build",
                name = settings.name.as_deref(),
                origin = %shared.source.resolver.origin(),
                mode = %settings.mode,
                generation = field::Empty,
                "error.type" = field::Empty,
                "otel.status_code" = field::Empty,
            )
        });
        Self {
            span: span.unwrap_or_else(|_| Span::none()),
            before: shared.current.generation(),
        }
    }

    /// Returns `attempt` within the span.
    pub(crate) fn enter<F: Future>(&self, attempt: F) -> Instrumented<F> {
        attempt.instrument(self.span.clone())
    }

    /// Records and reports the result of an attempt that took `took`.
    pub(crate) fn end<A>(&self, shared: &Shared<A>, failure: Option<&NotReady>, took: Duration) {
        let generation = shared.current.generation();
        let built = (generation > self.before).then_some(generation);
        let _ = catch(|| {
            self.span.record("generation", built);
            if let Some(problem) = failure.and_then(|failure| failure.problems().first()) {
                self.span.record("error.type", problem.kind().name());
                self.span.record("otel.status_code", "ERROR");
            }
        });
        #[cfg(feature = "metrics")]
        if built.is_some() || failure.is_some() {
            let name = shared.settings.name.as_deref();
            crate::report::attempt(name, took, failure.is_some());
        }
        #[cfg(not(feature = "metrics"))]
        let _ = took;
    }
}
