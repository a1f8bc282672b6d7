"""One figure of the statistics, the table that describes the figures, and the sheet that holds their values."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    MAX_FIGURES = 128               # above the longest table; a sheet of this size is on the stack

cdef enum Kind:
    GAUGE                           # rises and falls
    COUNTER                         # only rises, from 0 at the start of what it belongs to
    TEXT                            # names something, even if it is a number; no one adds or compares it

cdef enum Unit:
    NO_UNIT
    JOBS
    COMMANDS
    BYTES
    TUBES
    CLIENTS
    RECORDS
    SYNCS
    STEPS                           # of a client or of an iteration, see `State.effort`
    TIMES
    SECONDS
    MICROSECONDS                    # metrics show them as seconds

cdef enum Origin:
    BEANSTALKD                      # beanstalkd has this key
    FASTBEAN                        # ours; after all of beanstalkd's, whose clients then find theirs in their places
    FASTBEAN_BINLOG                 # likewise, and shown only if there is a binlog

cdef enum Form:
    FORM_NUMBER
    FORM_SIGNED
    FORM_DECIMAL                    # microseconds, shown as seconds with six decimals
    FORM_FLAG                       # true or false
    FORM_WORD                       # a text that YAML shows without quotes
    FORM_QUOTED                     # a text that YAML shows between double quotes

cdef struct Figure:
    const char *key
    size_t key_bytes
    Kind kind
    Unit unit
    Origin origin
    Form form
    const char *metric              # its name, perhaps with labels between braces; NULL: not among the metrics
    const char *help

cdef struct Family:                 # the figures that are samples of one metric
    const char *name
    size_t name_bytes
    const char *help
    uint32_t first                  # its figures: those of ``Table.by_metric`` from this place on
    uint32_t count

cdef struct Table:
    Figure[MAX_FIGURES] figures     # in the order of YAML and JSON
    uint32_t count
    uint32_t[MAX_FIGURES] by_metric
    Family[MAX_FIGURES] families
    uint32_t family_count

cdef struct Value:
    uint64_t number                 # also a flag, or a signed number
    const char *quoted              # a text, as YAML shows it
    const char *plain               # the same text in UTF-8

cdef struct Sheet:                  # what the figures of one table are at one moment
    Table *table
    Value[MAX_FIGURES] values       # in the order of the table
    uint32_t count
    bint has_binlog                 # otherwise the figures of FASTBEAN_BINLOG are not shown
    bint describes                  # the table is being made

cdef class Text:
    """A text that comes from outside, as YAML shows it between double quotes and in UTF-8."""
    cdef const char *quoted         # in `keeps_quoted`
    cdef const char *plain
    cdef bytes keeps_quoted
    cdef bytes keeps_plain

cdef void describe(
    Sheet *sheet, const char *key, Kind kind, Unit unit, Origin origin, Form form, const char *metric, const char *help,
) noexcept nogil
cdef int finish_table(Table *table, dict families) except -1
cdef list rows_of(Table *table)


cdef inline void begin_sheet(Sheet *sheet, Table *table, bint has_binlog) noexcept nogil:
    sheet.table = table
    sheet.count = 0
    sheet.has_binlog = has_binlog
    sheet.describes = False


cdef inline void begin_table(Sheet *sheet, Table *table) noexcept nogil:
    """Make a table: the rows that follow are described, `finish_table` ends it."""
    begin_sheet(sheet, table, False)
    sheet.describes = True


cdef inline bint is_shown(Figure *figure, Sheet *sheet) noexcept nogil:
    return figure.origin != FASTBEAN_BINLOG or sheet.has_binlog


cdef inline Value *row(
    Sheet *sheet, const char *key, Kind kind, Unit unit, Origin origin, Form form, const char *metric, const char *help,
) noexcept nogil:
    """The place for the next value. The description is looked at once, when the table is made."""
    cdef Value *value
    if sheet.describes:
        describe(sheet, key, kind, unit, origin, form, metric, help)
    value = &sheet.values[sheet.count]
    sheet.count += 1
    return value


# One row of a table; each of these has its form of value.

cdef inline void number(
    Sheet *sheet, const char *key, Kind kind, Unit unit, Origin origin, uint64_t value, const char *metric,
    const char *help,
) noexcept nogil:
    row(sheet, key, kind, unit, origin, FORM_NUMBER, metric, help).number = value


cdef inline void signed(
    Sheet *sheet, const char *key, Kind kind, Unit unit, Origin origin, int64_t value, const char *metric,
    const char *help,
) noexcept nogil:
    row(sheet, key, kind, unit, origin, FORM_SIGNED, metric, help).number = <uint64_t>value


cdef inline void decimal(
    Sheet *sheet, const char *key, Kind kind, Unit unit, Origin origin, uint64_t value_us, const char *metric,
    const char *help,
) noexcept nogil:
    row(sheet, key, kind, unit, origin, FORM_DECIMAL, metric, help).number = value_us


cdef inline void flag(
    Sheet *sheet, const char *key, Kind kind, Unit unit, Origin origin, bint value, const char *metric,
    const char *help,
) noexcept nogil:
    row(sheet, key, kind, unit, origin, FORM_FLAG, metric, help).number = value


cdef inline void word(
    Sheet *sheet, const char *key, Origin origin, const char *value, const char *metric, const char *help,
) noexcept nogil:
    row(sheet, key, TEXT, NO_UNIT, origin, FORM_WORD, metric, help).plain = value


cdef inline void quoted(
    Sheet *sheet, const char *key, Origin origin, const char *yaml, const char *plain, const char *metric,
    const char *help,
) noexcept nogil:
    cdef Value *value = row(sheet, key, TEXT, NO_UNIT, origin, FORM_QUOTED, metric, help)
    value.quoted = yaml
    value.plain = plain
