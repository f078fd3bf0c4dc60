//! What the proxy counts of tenants, for the control plane that keeps it: neither knows the other.

use model::insight::{QUESTIONS_MAX, Question, Questions};
use proxy::Numbers;
use tokio::sync::mpsc;

/// Answers with the numbers of now, until nobody can ask any more.
pub(super) fn answer(numbers: Numbers) -> Questions {
    let (questions, mut asked) = mpsc::channel(QUESTIONS_MAX);
    tokio::spawn(async move {
        while let Some(question) = asked.recv().await {
            match question {
                Question::Pools(reply) => {
                    let _ = reply.send(numbers.pools());
                }
                Question::All(reply) => drop(reply.send(numbers.counts().await)),
                Question::Log(reply) => {
                    if let Err(lost) = reply.send(numbers.take_log().await) {
                        let lines: usize = lost.iter().map(|of| of.lines.len()).sum();
                        if lines > 0 {
                            tracing::warn!(
                                lines,
                                "lines of statement logs are lost: nobody waited for them"
                            );
                        }
                    }
                }
                Question::One {
                    tenant,
                    statements_max,
                    reply,
                } => drop(reply.send(numbers.detail(&tenant, statements_max).await)),
                Question::Connections {
                    tenant,
                    most,
                    reply,
                } => drop(reply.send(numbers.connections(&tenant, most).await)),
            }
        }
    });
    questions
}
