"""One figure of the statistics, the table that describes the figures, and the sheet that holds their values.

`statistics_tables` has the tables: functions that write one row after the other into a sheet. A row is a call of
`number`, `signed`, `decimal`, `flag`, `word` or `quoted`, with the key of the figure, its kind, unit and origin, the
expression that gets its value, its metric, and its help text. When that module is loaded, each function runs once with
``Sheet.describes`` set, which makes the `Table`; after that only values are written, and the writers of `exposition`
take everything else from the table.

A metric is a name, perhaps with labels: ``beanstalkd_current_jobs{state="ready"}``. Figures with the same name are a
family. The figures of kind TEXT are labels of a metric that is always 1: ``beanstalkd_build_info{version}``.
"""

from libc.string cimport strchr, strlen, strncmp

from fastbean.engine import identity

_KINDS = {GAUGE: "gauge", COUNTER: "counter", TEXT: "text"}
_UNITS = {
    NO_UNIT: "", JOBS: "jobs", COMMANDS: "commands", BYTES: "bytes", TUBES: "tubes", CLIENTS: "clients",
    RECORDS: "records", SYNCS: "syncs", STEPS: "steps", TIMES: "times", SECONDS: "seconds",
    MICROSECONDS: "microseconds",
}
_ORIGINS = {BEANSTALKD: "beanstalkd", FASTBEAN: "fastbean", FASTBEAN_BINLOG: "fastbean, with a binlog"}


cdef class Text:
    def __cinit__(self, str text not None):
        self.keeps_quoted = identity.quoted(text)
        self.keeps_plain = identity.plain(text)
        self.quoted = self.keeps_quoted
        self.plain = self.keeps_plain


cdef void describe(
    Sheet *sheet, const char *key, Kind kind, Unit unit, Origin origin, Form form, const char *metric, const char *help,
) noexcept nogil:
    """Describe the next figure of the table that is being made."""
    cdef Figure *figure
    if sheet.count == MAX_FIGURES:
        sheet.count -= 1                # `finish_table` refuses so long a table
    figure = &sheet.table.figures[sheet.count]
    figure.key = key
    figure.key_bytes = strlen(key)
    figure.kind = kind
    figure.unit = unit
    figure.origin = origin
    figure.form = form
    figure.metric = metric
    figure.help = help
    sheet.table.count = sheet.count + 1


cdef int finish_table(Table *table, dict families) except -1:
    """Find the families of a table whose rows are described.

    ``families`` has the help texts of the metrics with labels, by name; it must outlive the table. Those without labels
    have the help text of their figure.
    """
    cdef bint[MAX_FIGURES] placed
    cdef uint32_t place, other, used = 0
    cdef Family *family
    if table.count == MAX_FIGURES:
        raise OverflowError(f"a table of statistics has fewer than {MAX_FIGURES} rows: raise MAX_FIGURES")
    for place in range(table.count):
        placed[place] = table.figures[place].metric is NULL
    for place in range(table.count):
        if placed[place]:
            continue
        family = &table.families[table.family_count]
        table.family_count += 1
        name_family(family, &table.figures[place], families)
        family.first = used
        for other in range(place, table.count):
            if not placed[other] and is_of_family(&table.figures[other], family):
                placed[other] = True
                table.by_metric[used] = other
                used += 1
        family.count = used - family.first
    return 0


cdef int name_family(Family *family, Figure *figure, dict families) except -1:
    cdef const char *labels = strchr(figure.metric, c"{")
    family.name = figure.metric
    family.name_bytes = strlen(figure.metric) if labels is NULL else labels - figure.metric
    family.help = figure.help if labels is NULL else <const char *><bytes>families[family.name[:family.name_bytes]]
    return 0


cdef bint is_of_family(Figure *figure, Family *family) noexcept nogil:
    cdef char end
    if strncmp(figure.metric, family.name, family.name_bytes) != 0:
        return False
    end = figure.metric[family.name_bytes]
    return end == 0 or end == c"{"


cdef list rows_of(Table *table):
    """The rows, as dicts of texts; for documentation and tests."""
    cdef Figure *figure
    cdef uint32_t place
    found = []
    for place in range(table.count):
        figure = &table.figures[place]
        found.append({
            "key": figure.key.decode(),
            "kind": _KINDS[figure.kind],
            "unit": _UNITS[figure.unit],
            "origin": _ORIGINS[figure.origin],
            "metric": "" if figure.metric is NULL else figure.metric.decode(),
            "help": figure.help.decode(),
        })
    return found
