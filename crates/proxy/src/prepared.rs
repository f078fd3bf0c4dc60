//! What a client has prepared: its names, its unnamed statement, and what is still uncertain.
//!
//! Owns: which statement each name of one session means, and taking back what the server turns out
//! not to have done. Does not own: the statements (`statements`), or the messages (`relay`).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    rc::Rc,
};

use statement::{Effects, Exact};
use wire::{message::parse::Report, queue::Notes};

use crate::{
    shape::Shape,
    state::State,
    statements::{Has, Statement, Statements, Told, Unnamed as Theirs, Which},
};

/// PostgreSQL takes no more of a name (NAMEDATALEN).
const NAME_MAX: usize = 63;
/// Notes that are searched. With more of them, the client waits until the server has caught up.
const PENDING_MAX: usize = 256;
/// Columns of statements that a session has no more, and that are remembered nevertheless for a while.
const SHAPES_BEHIND: usize = 16;
/// Room for the unnamed statement's text that a session at rest keeps.
const TEXT_KEPT: usize = 1024;

/// The part of a name that counts.
pub(crate) fn name(name: &[u8]) -> &[u8] {
    name.get(..NAME_MAX).unwrap_or(name)
}

/// Statements of one session.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    names: HashMap<Box<[u8]>, Rc<Statement>>,
    /// Of them, those whose plans were discarded: PostgreSQL reads each anew when it is used next, under the
    /// settings of then.
    discarded: Option<Box<Names>>,
    /// Of them, those that were used before there may have been temporary objects, and not since: these bring a
    /// schema into the `search_path`, so PostgreSQL analyses each anew when it is used next, as whoever uses it.
    before_temporary: Option<Box<Names>>,
    /// There may have been some.
    has_met_temporary: bool,
    /// There were some for certain.
    has_had_temporary: bool,
    /// One of them discards plans, or did.
    has_discarding: bool,
    /// One of them gives or takes names by SQL, or did.
    has_changing: bool,
    /// Of them, those with constants that were used where PostgreSQL had a reason to analyse them anew, under settings
    /// that read constants as they were, and not used elsewhere since.
    elsewhere: Option<Box<Names>>,
    /// What the client was told of their columns, in a room that sessions need which ask.
    told_of: Option<Box<ToldOf>>,
    /// The number of the statement that was bound last, where its columns are heeded; 0: there is none.
    bound: u64,
    /// How often a name was given.
    pub(crate) gains: u64,
    pub(crate) unnamed: Unnamed,
    /// What the unnamed statement can be made of again.
    pub(crate) source: Source,
    /// To be used for the next text.
    spare: Vec<u8>,
    notes: VecDeque<Note>,
    /// Of the notes, those before the last Sync: whether they hold does not decide whether what is
    /// sent now is looked at.
    before_sync: usize,
    /// Named statements that live on one server connection only.
    private: usize,
}

/// What a name means.
pub(crate) type Named = (Box<[u8]>, Rc<Statement>);

/// Names, in a room that most sessions do not need.
#[derive(Debug)]
struct Names(HashSet<Box<[u8]>>);

impl Names {
    fn add(names: &mut Option<Box<Self>>, name: &[u8]) {
        let own = names.get_or_insert_with(|| Box::new(Self(HashSet::new())));
        if !own.0.contains(name) {
            own.0.insert(name.into());
        }
    }

    fn of<'a>(names: impl Iterator<Item = &'a Box<[u8]>>) -> Option<Box<Self>> {
        let names: HashSet<_> = names.cloned().collect();
        (!names.is_empty()).then(|| Box::new(Self(names)))
    }

    /// Whether it was among them.
    fn remove(names: &mut Option<Box<Self>>, name: &[u8]) -> bool {
        let Some(own) = names else {
            return false;
        };
        let was_there = own.0.remove(name);
        if own.0.is_empty() {
            *names = None;
        }
        was_there
    }
}

/// Columns that a client was told of.
#[derive(Debug, Default)]
struct ToldOf {
    /// By number of the statement.
    named: HashMap<u64, Shape>,
    /// With its serial number.
    unnamed: Option<(u64, Shape)>,
}

impl ToldOf {
    fn shape(&self, which: Which) -> Option<Shape> {
        match which {
            Which::Named(number) => self.named.get(&number).copied(),
            Which::Unnamed(serial) => {
                let (of, shape) = self.unnamed?;
                (of == serial).then_some(shape)
            }
        }
    }

    fn forget(&mut self, which: Which) {
        match which {
            Which::Named(number) => {
                self.named.remove(&number);
            }
            Which::Unnamed(_) => self.unnamed = None,
        }
    }
}

/// The unnamed statement of a session.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Unnamed {
    #[default]
    None,
    /// Can be made again anywhere, from the [`Source`] of this serial number.
    Kept(u64),
    /// Lives on the server connection where it was made.
    There,
}

/// The last unnamed Parse.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// The body of the message behind the name.
    pub(crate) body: Vec<u8>,
    /// Settings under which it was parsed, as far as they decide how.
    pub(crate) parsing: Option<Rc<State>>,
    pub(crate) effects: Effects,
    pub(crate) exact: Option<Exact>,
    pub(crate) sets_locally: bool,
}

/// What was assumed when a request was sent, for the case that the server does not do it.
#[derive(Debug)]
enum Note {
    /// The client made `name`; the server connection has the statement if it was sent.
    Named {
        name: Box<[u8]>,
        statement: Rc<Statement>,
        sent: Sent,
    },
    /// The client closed `name`.
    Closed {
        name: Box<[u8]>,
        was: Option<Rc<Statement>>,
    },
    /// We made a statement that the server connection did not have.
    Made(u64),
    /// The unnamed statement was made or dropped. `source`: of the one before, if it had one.
    Unnamed {
        was: Unnamed,
        source: Source,
        there: There,
    },
    /// A name was taken on the server, so that something else fails.
    Occupied(Box<[u8]>),
    /// We made the unnamed statement again, or dropped somebody else's.
    Remade(There),
    /// We closed what was of no use.
    Freed(Box<[u8]>),
    /// The server connection was told a statement by the client's own name.
    Told { name: Box<[u8]>, was: Rc<Statement> },
    /// The columns of a statement are asked for: by the client, or by us.
    Described { which: Which, by_client: bool },
    /// The client is told that a statement returns something else than it was told.
    Changed(Which),
}

/// Whether a Parse of the client's goes to the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sent {
    /// The statement is there.
    No,
    Parse {
        /// What the client is told beside the answer.
        told: Told,
        /// It was there, and was closed for this.
        is_anew: bool,
    },
}

impl Sent {
    /// Where nothing is learned from it.
    pub(crate) const PARSE: Self = Self::Parse {
        told: Told::Unknown,
        is_anew: false,
    };
}

/// The unnamed statement that the server connection had, and has once the request is done.
#[derive(Clone, Copy, Debug)]
struct There {
    before: Theirs,
    after: Theirs,
}

impl There {
    fn set(has: &mut Has, after: Theirs) -> Self {
        let before = std::mem::replace(&mut has.unnamed, after);
        Self { before, after }
    }

    /// The request was not looked at. What came behind it was taken back before.
    fn take_back(self, has: &mut Has) {
        has.unnamed = if has.unnamed == self.after {
            self.before
        } else {
            Theirs::Unsure
        };
    }
}

impl Prepared {
    pub(crate) fn get(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        self.names.get(name)
    }

    /// Exactly what `name` does, where that is known.
    pub(crate) fn exact(&self, name: &[u8]) -> Option<&Exact> {
        if name.is_empty() {
            return self.source.exact.as_ref();
        }
        self.get(name)?.exact.as_ref()
    }

    /// The number of what `name` means, if it has one, and what it does; what it sets to the end of its transaction
    /// is counted.
    #[inline]
    pub(crate) fn number_and_effects(&self, name: &[u8]) -> (Option<u64>, Effects) {
        let (number, effects, sets_locally) = if name.is_empty() {
            (None, self.source.effects, self.source.sets_locally)
        } else {
            match self.names.get(name) {
                Some(own) => (Some(own.number), own.effects, own.sets_locally),
                None => (None, Effects::NONE, false),
            }
        };
        let locally = if sets_locally {
            Effects::SETTINGS
        } else {
            Effects::NONE
        };
        (number, effects.with(locally))
    }

    /// The text of what `name` means, if it is kept.
    pub(crate) fn text(&self, name: &[u8]) -> &[u8] {
        if name.is_empty() {
            return &self.source.body;
        }
        self.get(name).map_or(b"", |own| &own.query)
    }

    pub(crate) fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// How many names there are.
    #[inline]
    pub(crate) fn names(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn statements(&self) -> impl Iterator<Item = &Rc<Statement>> {
        self.names.values()
    }

    /// Forgets the names that the server connection has or is told now, and returns what these and those
    /// mean.
    pub(crate) fn hand_over(
        &mut self,
        mut is_told: impl FnMut(&[u8], &Statement) -> bool,
    ) -> (Vec<Named>, Vec<Named>) {
        let all = self
            .names
            .extract_if(|name, own| own.has_own_name || (!own.is_private && is_told(name, own)));
        let (own, others): (Vec<_>, Vec<_>) = all.partition(|(_, own)| own.has_own_name);
        self.private -= own.len();
        for (_, statement) in &others {
            self.forget_shape(Which::Named(statement.number));
        }
        (own, others)
    }

    /// Whether something of it lives on the server connection it has, and nowhere else.
    pub(crate) fn is_bound(&self) -> bool {
        self.private > 0 || matches!(self.unnamed, Unnamed::There)
    }

    /// Whether the unnamed statement, if it can be made anywhere, is the same under these settings.
    #[inline]
    pub(crate) fn is_unnamed_as_under(&self, parsing: &Rc<State>) -> bool {
        let source = &self.source;
        !matches!(self.unnamed, Unnamed::Kept(_))
            || source
                .parsing
                .as_ref()
                .is_some_and(|own| Rc::ptr_eq(own, parsing))
            || self.is_unnamed_everywhere()
    }

    /// Whether no settings have a part in how the unnamed statement is parsed.
    #[inline]
    pub(crate) fn is_unnamed_everywhere(&self) -> bool {
        !self
            .source
            .effects
            .intersects(Effects::UNSEEN.with(Effects::RUNS))
    }

    /// A Sync is sent.
    #[inline]
    pub(crate) fn segment(&mut self) {
        self.before_sync = self.notes.len();
    }

    /// Whether it is still open, and cannot wait, what `name` means or whether the server connection
    /// has the statement of this number. What was sent since the last Sync is skipped together with
    /// what is sent now, so it may be counted on.
    #[inline]
    pub(crate) fn is_pending(&self, name: &[u8], number: Option<u64>) -> bool {
        if self.before_sync == 0 {
            return false;
        }
        self.before_sync > PENDING_MAX
            || self
                .notes
                .iter()
                .take(self.before_sync)
                .any(|note| match note {
                    Note::Named {
                        name: own,
                        statement,
                        sent,
                    } => {
                        **own == *name
                            || (matches!(sent, Sent::Parse { .. })
                                && number == Some(statement.number))
                    }
                    Note::Closed { name: own, .. } | Note::Told { name: own, .. } => **own == *name,
                    Note::Made(made) => Some(*made) == number,
                    Note::Unnamed { .. } | Note::Remade(_) => name.is_empty(),
                    Note::Freed(own) | Note::Occupied(own) => **own == *name,
                    Note::Described { .. } | Note::Changed(_) => false,
                })
    }

    /// The client makes a named statement. If its Parse is sent, the server connection will have it.
    pub(crate) fn named(&mut self, name: &[u8], statement: Rc<Statement>, sent: Sent) {
        self.private += usize::from(statement.is_private);
        self.insert(name.into(), statement.clone());
        self.notes.push_back(Note::Named {
            name: name.into(),
            statement,
            sent,
        });
    }

    /// The server has something to say beside the Parse that it answers now, which was noted.
    #[cold]
    pub(crate) fn is_noticed(&mut self) {
        if let Some(Note::Named {
            sent: Sent::Parse { told, .. },
            ..
        }) = self.notes.front_mut()
        {
            *told = Told::Unknown;
        }
    }

    fn insert(&mut self, name: Box<[u8]>, statement: Rc<Statement>) {
        self.gains += 1;
        self.is_used(&name);
        self.used_at_home(&name);
        self.has_discarding |= statement.exact == Some(Exact::DiscardPlans);
        self.has_changing |= statement
            .effects
            .intersects(Effects::DEALLOCATE.with(Effects::PREPARE));
        // As it is read now, whatever another name of it was told.
        self.forget_shape(Which::Named(statement.number));
        if let Some(was) = self.names.insert(name, statement) {
            self.private -= usize::from(was.is_private);
            self.forget_shape(Which::Named(was.number));
        }
    }

    fn take(&mut self, name: &[u8]) -> Option<Rc<Statement>> {
        let was = self.names.remove(name)?;
        self.private -= usize::from(was.is_private);
        self.forget_shape(Which::Named(was.number));
        Some(was)
    }

    /// The columns that the client was told a statement returns, if it was.
    #[inline]
    pub(crate) fn shape(&self, which: Which) -> Option<Shape> {
        self.told_of.as_ref()?.shape(which)
    }

    /// The client is told of them.
    #[cold]
    fn is_told(&mut self, which: Which, shape: Shape) {
        let told_of = self.told_of.get_or_insert_default();
        match which {
            Which::Named(number) => {
                told_of.named.insert(number, shape);
                // Of those that were closed before the answer came, some stay behind.
                if told_of.named.len() > 2 * self.names.len() + SHAPES_BEHIND {
                    let all: HashSet<_> = self.names.values().map(|own| own.number).collect();
                    told_of.named.retain(|number, _| all.contains(number));
                }
            }
            Which::Unnamed(serial) => told_of.unnamed = Some((serial, shape)),
        }
    }

    /// From now on it was not told of them.
    #[inline]
    fn forget_shape(&mut self, which: Which) {
        if let Some(told_of) = &mut self.told_of {
            told_of.forget(which);
        }
    }

    /// The columns of a statement are asked for: by the client, or by us.
    pub(crate) fn described(&mut self, which: Which, by_client: bool) {
        let note = Note::Described { which, by_client };
        self.notes.push_back(note);
    }

    /// A portal is bound: the unnamed one to a named statement whose columns are heeded, or another.
    #[inline]
    pub(crate) fn binds(&mut self, heeded: Option<u64>) {
        self.bound = heeded.unwrap_or(0);
    }

    /// The client describes the portal that was bound last: whether the columns of its statement are news to it, which
    /// is noted then.
    pub(crate) fn is_to_be_told(&mut self) -> bool {
        let which = Which::Named(self.bound);
        let is_news = self.bound != 0 && self.shape(which).is_none();
        if is_news {
            self.described(which, true);
        }
        is_news
    }

    /// Whether the server comes to a Describe whose columns the client is not told of, but that they are others.
    pub(crate) fn is_at_changed(&self) -> bool {
        matches!(self.notes.front(), Some(Note::Changed(_)))
    }

    /// The client is told that they are others, once.
    pub(crate) fn changed(&mut self, which: Which) {
        self.notes.push_back(Note::Changed(which));
    }

    /// The plans of all statements were discarded.
    #[cold]
    pub(crate) fn discard_plans(&mut self) {
        self.discarded = Names::of(self.names.keys());
    }

    /// Whether something that is prepared may discard plans.
    #[inline]
    pub(crate) fn has_discarding(&self) -> bool {
        self.has_discarding || self.source.exact == Some(Exact::DiscardPlans)
    }

    /// Whether something that is prepared may change what is prepared.
    #[inline]
    pub(crate) fn has_changing(&self) -> bool {
        self.has_changing
    }

    /// Whether the plan of this one was discarded and it was not used since.
    fn is_used(&mut self, name: &[u8]) -> bool {
        Names::remove(&mut self.before_temporary, name);
        Names::remove(&mut self.discarded, name)
    }

    /// The client sends what may make temporary objects. Whether it is the first to do so.
    #[cold]
    pub(crate) fn meets_temporary(&mut self) -> bool {
        let is_first = !std::mem::replace(&mut self.has_met_temporary, true);
        if is_first {
            self.before_temporary = Names::of(self.names.keys());
        }
        is_first
    }

    /// It failed.
    #[cold]
    pub(crate) fn met_no_temporary(&mut self) {
        self.has_met_temporary = false;
        self.has_had_temporary = false;
        self.before_temporary = None;
    }

    /// The session has temporary objects.
    pub(crate) fn has_temporary(&mut self) {
        self.has_had_temporary |= self.before_temporary.is_some();
    }

    /// Whether it had some for certain, also if they are gone by now: their schema stays.
    pub(crate) fn has_had_temporary(&self) -> bool {
        self.has_had_temporary
    }

    /// Whether there may be some that were prepared before there may have been temporary objects.
    #[inline]
    pub(crate) fn has_before_temporary(&self) -> bool {
        self.before_temporary.is_some()
    }

    /// Those that were prepared before there may have been temporary objects, and not used since.
    pub(crate) fn take_before_temporary(&mut self) -> Vec<Box<[u8]>> {
        let names = self.before_temporary.take();
        let names = names.into_iter().flat_map(|names| names.0);
        names.filter(|name| self.names.contains_key(name)).collect()
    }

    /// Whether this one was prepared before there may have been temporary objects, and not used since.
    pub(crate) fn is_before_temporary(&self, name: &[u8]) -> bool {
        let names = self.before_temporary.as_ref();
        names.is_some_and(|names| names.0.contains(name))
    }

    /// The client uses one where PostgreSQL has a reason to analyse it anew.
    #[cold]
    pub(crate) fn used_elsewhere(&mut self, name: &[u8]) {
        Names::add(&mut self.elsewhere, name);
    }

    /// The client uses one where PostgreSQL had analysed it when it was prepared: it does so once more, to the same end.
    #[inline]
    pub(crate) fn used_at_home(&mut self, name: &[u8]) {
        if self.elsewhere.is_some() {
            Names::remove(&mut self.elsewhere, name);
        }
    }

    /// Whether there are some that PostgreSQL has analysed anew since they were prepared.
    #[inline]
    pub(crate) fn has_elsewhere(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// Takes them, with what they mean.
    pub(crate) fn take_elsewhere(&mut self) -> Vec<Named> {
        let names = self.elsewhere.take();
        let names = names.into_iter().flat_map(|names| names.0);
        let named = names.filter_map(|name| Some((self.names.get(&name)?.clone(), name)));
        named.map(|(own, name)| (name, own)).collect()
    }

    /// Whether it makes a difference which statement is used.
    #[inline]
    pub(crate) fn heeds_uses(&self) -> bool {
        self.discarded.is_some() || self.before_temporary.is_some()
    }

    /// The client uses a statement, and it is not known under which settings.
    pub(crate) fn used_unsettled(&mut self, name: &[u8]) {
        Names::remove(&mut self.before_temporary, name);
    }

    /// The client uses a statement under these settings: if its plan was discarded, it is read under them.
    #[cold]
    pub(crate) fn read_anew(&mut self, name: &[u8], all: &Statements, wanted: &Rc<State>) {
        if !self.is_used(name) {
            return;
        }
        if let Some(own) = self.names.get_mut(name)
            && !own.is_private
            && !Rc::ptr_eq(&own.parsing, wanted.parsing())
            // PostgreSQL keeps which words it has read.
            && own.parsing.reads_texts_as(wanted)
            && let Some(anew) = all.under(own, wanted)
        {
            let was = std::mem::replace(own, anew);
            self.gains += 1;
            self.forget_shape(Which::Named(was.number));
        }
    }

    /// The client closes a named statement. Returns it.
    pub(crate) fn closed(&mut self, name: &[u8]) -> Option<Rc<Statement>> {
        let was = self.take(name);
        self.notes.push_back(Note::Closed {
            name: name.into(),
            was: was.clone(),
        });
        was
    }

    /// We make one that the server connection does not have.
    pub(crate) fn made(&mut self, number: u64) {
        self.notes.push_back(Note::Made(number));
    }

    /// We tell the server connection one by the client's own name.
    pub(crate) fn told(&mut self, name: Box<[u8]>, was: Rc<Statement>) {
        self.notes.push_back(Note::Told { name, was });
    }

    /// The client drops the unnamed statement.
    pub(crate) fn drop_unnamed(&mut self, has: &mut Has) {
        self.make_unnamed(Unnamed::None, Source::default(), Theirs::None, has);
    }

    /// The client makes the unnamed statement: of this serial number.
    pub(crate) fn unnamed(&mut self, now: Unnamed, source: Source, serial: u64, has: &mut Has) {
        self.make_unnamed(now, source, Theirs::Of(serial), has);
    }

    fn make_unnamed(&mut self, now: Unnamed, source: Source, theirs: Theirs, has: &mut Has) {
        let was = std::mem::replace(&mut self.unnamed, now);
        let source = std::mem::replace(&mut self.source, source);
        let there = There::set(has, theirs);
        self.notes.push_back(Note::Unnamed { was, source, there });
    }

    /// Room for the text of an unnamed statement.
    pub(crate) fn room(&mut self) -> Vec<u8> {
        let mut room = std::mem::take(&mut self.spare);
        room.clear();
        room
    }

    /// We take a name on the server.
    pub(crate) fn occupied(&mut self, name: &[u8]) {
        self.notes.push_back(Note::Occupied(name.into()));
    }

    /// We close what is of no use.
    pub(crate) fn freed(&mut self, name: Box<[u8]>) {
        self.notes.push_back(Note::Freed(name));
    }

    /// We make the unnamed statement again, or drop one that is not the client's.
    pub(crate) fn remade(&mut self, theirs: Theirs, has: &mut Has) {
        self.notes.push_back(Note::Remade(There::set(has, theirs)));
    }

    /// Takes note of what became of requests. `shape`: the columns that the server told of just now.
    pub(crate) fn became(&mut self, notes: Notes, shape: Option<Shape>, has: &mut Has) {
        let all = notes.done + notes.failed + notes.dropped;
        self.before_sync = self.before_sync.saturating_sub(all as usize);
        for _ in 0..notes.done {
            match self.notes.pop_front() {
                Some(Note::Closed { was: Some(was), .. }) if was.is_private => {
                    // Nobody else can have it.
                    has.remove(was.number);
                    if !was.has_own_name {
                        has.discard(&was.name);
                    }
                }
                Some(Note::Named {
                    statement,
                    sent: Sent::Parse { told, .. },
                    ..
                }) => statement.was_quiet(told),
                Some(Note::Occupied(name)) => has.discard(&name),
                Some(Note::Unnamed { source, .. }) => self.spare = source.body,
                Some(Note::Changed(which)) => self.forget_shape(which),
                Some(Note::Described { which, by_client }) => {
                    if let Some(shape) = shape {
                        has.describe(which, shape);
                        if by_client {
                            self.is_told(which, shape);
                        }
                    }
                }
                _ => {}
            }
        }
        let taken_back: Vec<_> = (0..notes.failed + notes.dropped)
            .filter_map(|_| self.notes.pop_front())
            .collect();
        // What came last is taken back first.
        for (at, note) in taken_back.into_iter().enumerate().rev() {
            let failed = at == 0 && notes.failed > 0;
            match note {
                Note::Named {
                    name,
                    statement,
                    sent,
                } => {
                    self.take(&name);
                    if let Sent::Parse { is_anew, .. } = sent {
                        has.remove(statement.number);
                        if is_anew && !failed {
                            // Nor was it closed.
                            has.discard(&statement.name);
                        }
                    }
                }
                Note::Closed { name, was } => {
                    if let Some(was) = was {
                        self.private += usize::from(was.is_private);
                        self.insert(name, was);
                    }
                }
                Note::Made(number) => {
                    has.remove(number);
                }
                // One that fails has dropped the one before.
                Note::Unnamed { .. } if failed => {
                    self.unnamed = Unnamed::None;
                    has.unnamed = Theirs::None;
                }
                Note::Unnamed { was, source, there } => {
                    self.unnamed = was;
                    self.source = source;
                    there.take_back(has);
                }
                Note::Occupied(_) => {}
                Note::Remade(_) if failed => has.unnamed = Theirs::None,
                Note::Remade(there) => there.take_back(has),
                Note::Freed(name) => has.discard(&name),
                Note::Told { name, was } => self.insert(name, was),
                Note::Changed(which) if failed => self.forget_shape(which),
                Note::Described { .. } | Note::Changed(_) => {}
            }
        }
    }

    /// Whether an error (26000) is about a statement that the client has, and that is not known where it
    /// was named.
    #[cold]
    pub(crate) fn is_out_of_reach(&self, message: &[u8], all: &Statements, has: &Has) -> bool {
        if let Some(place) = all.find_name(message) {
            let mut own = self.names.values();
            let own = own.find(|own| *own.name == message[place.clone()]);
            return own.is_some_and(|own| !has.contains(own.number));
        }
        // Not one that is made only behind what failed.
        let is_to_come = |name: &[u8]| {
            let mut notes = self.notes.iter();
            notes.any(|note| matches!(note, Note::Named { name: own, .. } if **own == *name))
        };
        self.names.iter().any(|(name, own)| {
            let quoted = [b"\"", &**name, b"\""].concat();
            !own.has_own_name
                && memchr::memmem::find(message, &quoted).is_some()
                && !is_to_come(name)
        })
    }

    /// An error that names a statement, as a message with the client's name for it. `hint`: what is said
    /// beside what the server says.
    #[cold]
    pub(crate) fn as_the_client_names(
        &self,
        report: &Report<'_>,
        all: &Statements,
        hint: Option<&str>,
    ) -> Vec<u8> {
        let mut out = vec![b'E', 0, 0, 0, 0];
        for (letter, text) in report.fields() {
            out.push(letter);
            match all.find_name(text) {
                Some(place) if letter == b'M' => {
                    let ours = &text[place.clone()];
                    let closed = self.notes.iter().filter_map(|note| match note {
                        Note::Closed { name, was } => Some((name, was.as_ref()?)),
                        _ => None,
                    });
                    let mut names = closed.chain(self.names.iter());
                    let own = names.find(|(_, statement)| *statement.name == *ours);
                    out.extend_from_slice(&text[..place.start]);
                    out.extend_from_slice(own.map_or(b"?", |(name, _)| name));
                    out.extend_from_slice(&text[place.end..]);
                }
                _ => out.extend_from_slice(text),
            }
            out.push(0);
        }
        if let Some(hint) = hint {
            out.push(b'H');
            out.extend_from_slice(hint.as_bytes());
            out.push(0);
        }
        out.push(0);
        let length = (out.len() - 1) as u32;
        out[1..5].copy_from_slice(&length.to_be_bytes());
        out
    }

    /// The server forgot one named statement, or all of them.
    pub(crate) fn forget(&mut self, name: Option<&[u8]>) {
        match name {
            Some(name) => {
                self.take(name);
            }
            None => {
                self.names.clear();
                self.told_of = None;
                self.discarded = None;
                self.before_temporary = None;
                self.elsewhere = None;
                self.private = 0;
            }
        }
    }

    /// At the end of a transaction: no more room than a session at rest needs.
    pub(crate) fn rest(&mut self) {
        if self.source.body.capacity() > TEXT_KEPT && self.unnamed == Unnamed::None {
            self.source.body = Vec::new();
        }
        if self.spare.capacity() > TEXT_KEPT {
            self.spare = Vec::new();
        }
    }
}
