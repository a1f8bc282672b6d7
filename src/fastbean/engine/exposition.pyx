"""Writes a sheet of statistics as YAML, as JSON or in Prometheus' text format (version 0.0.4).

All writers append to a Buffer and know no engine: a sheet that was filled earlier can be written later, and a text for
very many tubes one tube at a time. In Prometheus' format all samples of a metric follow each other, whichever tube they
are of. So there the caller goes through the families, and for each of them through the tubes.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, strchr

from fastbean.base.buffer cimport (
    DIGITS, Buffer, buffer_append, buffer_append_number, buffer_append_text, buffer_reserve, write_number,
)
from fastbean.engine.figure cimport (
    COUNTER, FORM_DECIMAL, FORM_FLAG, FORM_NUMBER, FORM_QUOTED, FORM_SIGNED, FORM_WORD, MICROSECONDS, TEXT, Family,
    Figure, Form, Sheet, Table, Value, is_shown,
)

cdef enum:
    US_IN_SECOND = 1000000
    FIRST_PRINTABLE = 32                # the characters below it are control characters


cdef void write_yaml(Sheet *sheet, Buffer *text) noexcept nogil:
    """Write a line for each figure."""
    cdef Table *table = sheet.table
    cdef Figure *figure
    cdef Value *value
    cdef uint32_t place
    for place in range(table.count):
        figure = &table.figures[place]
        value = &sheet.values[place]
        if not is_shown(figure, sheet):
            continue
        if figure.form == FORM_NUMBER or (figure.form == FORM_SIGNED and <int64_t>value.number >= 0):
            write_number_line(figure, value.number, text)
            continue
        buffer_append(text, figure.key, figure.key_bytes)
        buffer_append(text, b": ", 2)
        if figure.form == FORM_QUOTED:
            buffer_append(text, b"\"", 1)
            buffer_append_text(text, value.quoted)
            buffer_append(text, b"\"", 1)
        elif figure.form == FORM_WORD:
            buffer_append_text(text, value.plain)
        else:
            write_quantity(figure.form, value.number, text)
        buffer_append(text, b"\n", 1)


cdef inline void write_number_line(Figure *figure, uint64_t number, Buffer *text) noexcept nogil:
    """Most of each text is made of these, so each is written in one piece."""
    cdef char *end
    if text.failed or buffer_reserve(text, figure.key_bytes + 2 + DIGITS + 1) < 0:
        return
    end = text.data + text.len
    memcpy(end, figure.key, figure.key_bytes)
    end += figure.key_bytes
    end[0] = c":"
    end[1] = c" "
    end = write_number(end + 2, number)
    end[0] = c"\n"
    text.len = end + 1 - text.data


cdef void write_quantity(Form form, uint64_t number, Buffer *text) noexcept nogil:
    """Write a value that is not a text."""
    cdef uint64_t scale = US_IN_SECOND
    if form == FORM_FLAG:
        buffer_append_text(text, b"true" if number else b"false")
        return
    if form == FORM_SIGNED and <int64_t>number < 0:
        buffer_append(text, b"-", 1)
        number = 0 - number
    if form != FORM_DECIMAL:
        buffer_append_number(text, number)
        return
    buffer_append_number(text, number // US_IN_SECOND)
    buffer_append(text, b".", 1)
    while scale > 1:
        scale //= 10
        buffer_append_number(text, number // scale % 10)


cdef void write_json(Sheet *sheet, Buffer *text) noexcept nogil:
    """Write an object with a member for each figure, in the order of YAML."""
    cdef Table *table = sheet.table
    cdef Figure *figure
    cdef uint32_t place
    cdef bint is_first = True
    buffer_append(text, b"{", 1)
    for place in range(table.count):
        figure = &table.figures[place]
        if not is_shown(figure, sheet):
            continue
        buffer_append_text(text, b"\"" if is_first else b", \"")
        is_first = False
        buffer_append(text, figure.key, figure.key_bytes)
        buffer_append(text, b"\": ", 3)
        if figure.form == FORM_QUOTED or figure.form == FORM_WORD:
            buffer_append(text, b"\"", 1)
            write_escaped(sheet.values[place].plain, True, text)
            buffer_append(text, b"\"", 1)
        else:
            write_quantity(figure.form, sheet.values[place].number, text)
    buffer_append(text, b"}", 1)


cdef bint is_family_shown(Sheet *sheet, uint32_t number) noexcept nogil:
    """Whether a metric has any samples; all its figures have one origin. `number` is its place among the families."""
    return is_shown(&sheet.table.figures[sheet.table.by_metric[sheet.table.families[number].first]], sheet)


cdef void write_family_head(Table *table, uint32_t number, Buffer *text) noexcept nogil:
    """Write the two lines in front of the samples of a metric."""
    cdef Family *family = &table.families[number]
    cdef bint is_counter = table.figures[table.by_metric[family.first]].kind == COUNTER
    buffer_append(text, b"# HELP ", 7)
    buffer_append(text, family.name, family.name_bytes)
    buffer_append(text, b" ", 1)
    buffer_append_text(text, family.help)
    buffer_append(text, b"\n# TYPE ", 8)
    buffer_append(text, family.name, family.name_bytes)
    buffer_append_text(text, b" counter\n" if is_counter else b" gauge\n")


cdef void write_family(Sheet *sheet, uint32_t number, const char *tube, Buffer *text) noexcept nogil:
    """Write the samples of a metric: of the server, or those of one tube; `tube` is its name, otherwise NULL."""
    cdef Table *table = sheet.table
    cdef Family *family = &table.families[number]
    cdef Figure *figure
    cdef uint32_t place
    if table.figures[table.by_metric[family.first]].kind == TEXT:
        write_info(sheet, family, text)
        return
    for place in range(family.first, family.first + family.count):
        figure = &table.figures[table.by_metric[place]]
        buffer_append(text, family.name, family.name_bytes)
        write_labels(figure.metric + family.name_bytes, tube, text)
        write_sample_value(figure, sheet.values[table.by_metric[place]].number, text)


cdef void write_labels(const char *labels, const char *tube, Buffer *text) noexcept nogil:
    """Write the labels of a sample. `labels` are those of its figure with their braces, or empty."""
    if tube is NULL:
        buffer_append_text(text, labels)
        return
    buffer_append(text, b"{tube=\"", 7)
    write_escaped(tube, False, text)
    buffer_append(text, b"\"", 1)
    if labels[0] == 0:
        buffer_append(text, b"}", 1)
    else:
        buffer_append(text, b",", 1)
        buffer_append_text(text, labels + 1)


cdef void write_sample_value(Figure *figure, uint64_t number, Buffer *text) noexcept nogil:
    buffer_append(text, b" ", 1)
    if figure.form == FORM_FLAG:
        buffer_append_number(text, number)
    else:
        # The base unit of all times is the second.
        write_quantity(FORM_DECIMAL if figure.unit == MICROSECONDS else figure.form, number, text)
    buffer_append(text, b"\n", 1)


cdef void write_info(Sheet *sheet, Family *family, Buffer *text) noexcept nogil:
    """Write the one sample of a metric whose figures are texts: they are its labels, and it is 1."""
    cdef Table *table = sheet.table
    cdef Figure *figure
    cdef Value *value
    cdef const char *label
    cdef uint32_t place
    buffer_append(text, family.name, family.name_bytes)
    for place in range(family.first, family.first + family.count):
        figure = &table.figures[table.by_metric[place]]
        value = &sheet.values[table.by_metric[place]]
        label = figure.metric + family.name_bytes + 1
        buffer_append(text, b"{" if place == family.first else b",", 1)
        buffer_append(text, label, strchr(label, c"}") - label)
        buffer_append(text, b"=\"", 2)
        if figure.form == FORM_NUMBER:
            buffer_append_number(text, value.number)
        else:
            write_escaped(value.plain, False, text)
        buffer_append(text, b"\"", 1)
    buffer_append(text, b"} 1\n", 4)


cdef void write_escaped(const char *plain, bint is_json, Buffer *text) noexcept nogil:
    """Write a text as it is between the double quotes of JSON or of a label."""
    cdef const char *digits = b"0123456789abcdef"
    cdef unsigned char each
    while plain[0] != 0:
        each = <unsigned char>plain[0]
        if each == c"\"" or each == c"\\":
            buffer_append(text, b"\\", 1)
            buffer_append(text, plain, 1)
        elif each == c"\n":
            buffer_append(text, b"\\n", 2)
        elif is_json and each < FIRST_PRINTABLE:
            buffer_append(text, b"\\u00", 4)
            buffer_append(text, digits + each // 16, 1)
            buffer_append(text, digits + each % 16, 1)
        else:
            buffer_append(text, plain, 1)
        plain += 1
