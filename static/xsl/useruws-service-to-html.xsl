<?xml version="1.0" encoding="UTF-8"?>
<!--
  A service as a page, at {base}/{service}: the form in which a job is ordered, or one that waits is changed.

  What a browser can check of a value, it checks before anything is sent; what the server refuses is said beside
  the field, which keeps what was typed.
-->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:s="urn:uwsd:service"
    exclude-result-prefixes="s">

  <xsl:import href="page.xsl"/>

  <xsl:preserve-space elements="s:value s:option s:default"/>

  <xsl:variable name="job" select="string(/s:service/@job)"/>
  <xsl:variable name="jobs" select="concat(/s:service/@root, /s:service/@name, '/async')"/>

  <xsl:template match="/s:service">
    <xsl:variable name="title">
      <xsl:if test="$job != ''">Change the parameters: </xsl:if>
      <xsl:value-of select="s:title"/>
    </xsl:variable>
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="string($title)"/>
      <xsl:with-param name="root" select="string(@root)"/>
      <xsl:with-param name="crumbs">
        <xsl:choose>
          <xsl:when test="$job != ''">
            <li><a href="{@root}{@name}"><xsl:value-of select="s:title"/></a></li>
            <li><a href="{$jobs}">Jobs</a></li>
            <li><a href="{$jobs}/{$job}">Job</a></li>
            <li><span aria-current="page">Parameters</span></li>
          </xsl:when>
          <xsl:otherwise><li><span aria-current="page"><xsl:value-of select="s:title"/></span></li></xsl:otherwise>
        </xsl:choose>
      </xsl:with-param>
      <xsl:with-param name="main">
        <h1><xsl:value-of select="$title"/></h1>
        <xsl:choose>
          <xsl:when test="$job != ''">
            <p>Of <a href="{$jobs}/{$job}">job <span class="id"><xsl:value-of select="$job"/></span></a>, which has not run yet.</p>
          </xsl:when>
          <xsl:otherwise><xsl:call-template name="introduction"/></xsl:otherwise>
        </xsl:choose>
        <xsl:if test="s:refusal or s:parameter/s:problem">
          <section class="error" role="alert" aria-labelledby="refused">
            <h2 id="refused">Not accepted</h2>
            <xsl:if test="s:refusal"><p><xsl:value-of select="s:refusal"/></p></xsl:if>
            <xsl:if test="s:parameter/s:problem">
              <ul>
                <xsl:for-each select="s:parameter[s:problem]">
                  <li><a href="#p-{@name}"><xsl:value-of select="@name"/></a><xsl:value-of select="concat(': ', s:problem)"/></li>
                </xsl:for-each>
              </ul>
            </xsl:if>
            <xsl:if test="@lost"><p>A file has to be chosen again.</p></xsl:if>
          </section>
        </xsl:if>
        <xsl:if test="$job = ''"><xsl:call-template name="examples"/></xsl:if>
        <xsl:if test="s:quota">
          <section aria-labelledby="quotas">
            <h2 id="quotas">What you may have</h2>
            <ul>
              <xsl:for-each select="s:quota"><li><xsl:value-of select="."/></li></xsl:for-each>
            </ul>
          </section>
        </xsl:if>
        <form class="order" method="post" action="{$jobs}" enctype="multipart/form-data" aria-label="New job">
          <xsl:if test="$job != ''">
            <xsl:attribute name="action"><xsl:value-of select="concat($jobs, '/', $job, '/parameters?ACTION=REPLACE')"/></xsl:attribute>
            <xsl:attribute name="aria-label">Parameters</xsl:attribute>
          </xsl:if>
          <xsl:if test="s:parameter[@required]">
            <p class="faint">Fields with <span class="required" aria-hidden="true">*</span><span class="unseen">a star</span> are required.</p>
          </xsl:if>
          <xsl:apply-templates select="s:parameter"/>
          <details>
            <summary>More about the job</summary>
            <div class="field">
              <label for="run-id">Name of the job</label>
              <p class="hint" id="run-id-hint">Yours to choose; jobs can be found by it.</p>
              <input id="run-id" name="RUNID" value="{s:runId}" autocomplete="off" aria-describedby="run-id-hint"/>
            </div>
            <div class="field">
              <label for="duration">Longest run in seconds</label>
              <p class="hint" id="duration-hint">
                <xsl:choose>
                  <xsl:when test="s:duration/@max"><xsl:value-of select="concat('At most ', s:duration/@max, '.')"/></xsl:when>
                  <xsl:otherwise>0 is as long as it takes.</xsl:otherwise>
                </xsl:choose>
              </p>
              <input id="duration" name="EXECUTIONDURATION" type="number" step="1" value="{s:duration}" aria-describedby="duration-hint">
                <xsl:attribute name="min"><xsl:value-of select="number(boolean(s:duration/@max))"/></xsl:attribute>
                <xsl:copy-of select="s:duration/@max"/>
              </input>
            </div>
          </details>
          <p class="actions">
            <button name="PHASE" value="RUN" class="main">Run</button>
            <!-- What is required is so when the job runs. -->
            <button formnovalidate="formnovalidate">
              <xsl:choose>
                <xsl:when test="$job != ''">Keep the changes</xsl:when>
                <xsl:otherwise>Keep it for later</xsl:otherwise>
              </xsl:choose>
            </button>
          </p>
        </form>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

  <xsl:template name="introduction">
    <xsl:if test="s:description"><p class="text"><xsl:value-of select="s:description"/></p></xsl:if>
    <p><a href="{$jobs}">Your jobs</a></p>
    <p class="faint">
      For programs such as pyvo and TOPCAT: <a href="{@root}{@name}/descriptor">descriptor</a>,
      <a href="{@root}{@name}/capabilities">capabilities</a>, <a href="{@root}{@name}/parameters.json">parameters</a>
    </p>
  </xsl:template>

  <xsl:template name="examples">
    <xsl:if test="s:example">
      <section aria-labelledby="examples">
        <h2 id="examples">Examples</h2>
        <ul>
          <xsl:for-each select="s:example">
            <li>
              <xsl:call-template name="link">
                <xsl:with-param name="text" select="@title"/>
                <xsl:with-param name="url" select="@href"/>
              </xsl:call-template>
              <xsl:if test=". != ''"><xsl:value-of select="concat(': ', .)"/></xsl:if>
            </li>
          </xsl:for-each>
        </ul>
      </section>
    </xsl:if>
  </xsl:template>

  <!-- One field: a label, what is to be known, what is wrong, and what the type asks for. -->
  <xsl:template match="s:parameter">
    <div class="field">
      <label for="p-{@name}"><xsl:call-template name="name"/></label>
      <xsl:call-template name="about"/>
      <xsl:apply-templates select="." mode="input"/>
    </div>
  </xsl:template>

  <!-- Several fields that are one parameter. -->
  <xsl:template match="s:parameter[@multiple and @type != 'file'] | s:parameter[s:file]">
    <fieldset class="field" id="p-{@name}" tabindex="-1">
      <xsl:if test="s:description or s:default or s:problem">
        <xsl:attribute name="aria-describedby"><xsl:call-template name="ids"/></xsl:attribute>
      </xsl:if>
      <legend><xsl:call-template name="name"/></legend>
      <xsl:call-template name="about"/>
      <xsl:apply-templates select="." mode="inputs"/>
    </fieldset>
  </xsl:template>

  <xsl:template name="name">
    <xsl:value-of select="@name"/>
    <xsl:if test="@unit"><xsl:text> </xsl:text><span class="unit"><xsl:value-of select="concat('(', @unit, ')')"/></span></xsl:if>
    <xsl:if test="@required"><span class="required" aria-hidden="true"> *</span><span class="unseen"> (required)</span></xsl:if>
  </xsl:template>

  <xsl:template name="about">
    <p class="hint" id="h-{@name}">
      <xsl:value-of select="s:description"/>
      <xsl:variable name="limits">
        <xsl:choose>
          <xsl:when test="@min and @max"><xsl:value-of select="concat(@min, ' to ', @max)"/></xsl:when>
          <xsl:when test="@min"><xsl:value-of select="concat('at least ', @min)"/></xsl:when>
          <xsl:when test="@max"><xsl:value-of select="concat('at most ', @max)"/></xsl:when>
          <xsl:when test="@maxSize"><xsl:value-of select="concat('at most ', @maxSize)"/></xsl:when>
          <xsl:when test="@maxLength"><xsl:value-of select="concat('at most ', @maxLength, ' characters')"/></xsl:when>
        </xsl:choose>
      </xsl:variable>
      <xsl:if test="s:description and ($limits != '' or @example)"><xsl:text>; </xsl:text></xsl:if>
      <xsl:value-of select="$limits"/>
      <xsl:if test="@example">
        <xsl:if test="$limits != ''"><xsl:text>, </xsl:text></xsl:if>
        <xsl:value-of select="concat('for example ', @example)"/>
      </xsl:if>
      <xsl:if test="s:default">
        <xsl:if test="s:description or $limits != '' or @example"><xsl:text>; </xsl:text></xsl:if>
        <xsl:value-of select="concat('left empty: ', s:default)"/>
      </xsl:if>
    </p>
    <xsl:if test="s:problem"><p class="problem" id="e-{@name}"><xsl:value-of select="s:problem"/></p></xsl:if>
  </xsl:template>

  <xsl:template name="ids">
    <xsl:value-of select="concat('h-', @name)"/>
    <xsl:if test="s:problem"><xsl:value-of select="concat(' e-', @name)"/></xsl:if>
  </xsl:template>

  <!-- What every control of a parameter has. -->
  <xsl:template name="control">
    <xsl:param name="id" select="concat('p-', @name)"/>
    <xsl:param name="required" select="@required"/>
    <xsl:attribute name="id"><xsl:value-of select="$id"/></xsl:attribute>
    <xsl:attribute name="name"><xsl:value-of select="@name"/></xsl:attribute>
    <xsl:attribute name="aria-describedby"><xsl:call-template name="ids"/></xsl:attribute>
    <xsl:if test="$required"><xsl:attribute name="required">required</xsl:attribute></xsl:if>
    <xsl:if test="s:problem"><xsl:attribute name="aria-invalid">true</xsl:attribute></xsl:if>
  </xsl:template>

  <xsl:template match="s:parameter[s:option or @type = 'bool']" mode="input">
    <xsl:variable name="value" select="string(s:value)"/>
    <select>
      <xsl:call-template name="control"/>
      <xsl:if test="not(s:value) or not(@required)"><option value="">—</option></xsl:if>
      <xsl:for-each select="s:option">
        <option value="{.}">
          <xsl:if test=". = $value"><xsl:attribute name="selected">selected</xsl:attribute></xsl:if>
          <xsl:value-of select="."/>
        </option>
      </xsl:for-each>
      <xsl:if test="not(s:option)">
        <option><xsl:if test="$value = 'true'"><xsl:attribute name="selected">selected</xsl:attribute></xsl:if>true</option>
        <option><xsl:if test="$value = 'false'"><xsl:attribute name="selected">selected</xsl:attribute></xsl:if>false</option>
      </xsl:if>
    </select>
  </xsl:template>

  <xsl:template match="s:parameter[@type = 'file']" mode="input">
    <input type="file">
      <xsl:call-template name="control">
        <xsl:with-param name="required" select="@required and not(s:file)"/>
      </xsl:call-template>
      <xsl:if test="@multiple"><xsl:attribute name="multiple">multiple</xsl:attribute></xsl:if>
    </input>
  </xsl:template>

  <xsl:template match="s:parameter" mode="input"><xsl:call-template name="text"/></xsl:template>

  <!-- What is typed. Only an area keeps line ends; of those, a browser drops one that comes first. -->
  <xsl:template name="text">
    <xsl:param name="value" select="string(s:value)"/>
    <xsl:param name="label"/>
    <xsl:variable name="control">
      <xsl:choose>
        <xsl:when test="contains($value, '&#10;')">textarea</xsl:when>
        <xsl:otherwise>input</xsl:otherwise>
      </xsl:choose>
    </xsl:variable>
    <xsl:element name="{$control}">
      <xsl:choose>
        <xsl:when test="$label = ''"><xsl:call-template name="control"/></xsl:when>
        <xsl:otherwise>
          <xsl:attribute name="name"><xsl:value-of select="@name"/></xsl:attribute>
          <xsl:attribute name="aria-label"><xsl:value-of select="$label"/></xsl:attribute>
        </xsl:otherwise>
      </xsl:choose>
      <xsl:choose>
        <xsl:when test="$control = 'textarea'">
          <xsl:attribute name="rows">6</xsl:attribute>
          <xsl:value-of select="concat('&#10;', $value)"/>
        </xsl:when>
        <xsl:otherwise>
          <xsl:call-template name="kind"/>
          <xsl:attribute name="value"><xsl:value-of select="$value"/></xsl:attribute>
        </xsl:otherwise>
      </xsl:choose>
    </xsl:element>
  </xsl:template>

  <xsl:template name="kind">
    <xsl:attribute name="autocomplete">off</xsl:attribute>
    <xsl:choose>
      <!-- A number field drops what is no number; what was refused has to stay. -->
      <xsl:when test="(@type = 'int' or @type = 'float') and not(s:problem)">
        <xsl:attribute name="type">number</xsl:attribute>
        <xsl:attribute name="step"><xsl:choose><xsl:when test="@type = 'int'">1</xsl:when><xsl:otherwise>any</xsl:otherwise></xsl:choose></xsl:attribute>
        <xsl:copy-of select="@min | @max"/>
      </xsl:when>
      <xsl:otherwise>
        <xsl:attribute name="type">text</xsl:attribute>
        <xsl:copy-of select="@pattern"/>
        <xsl:if test="@maxLength"><xsl:attribute name="maxlength"><xsl:value-of select="@maxLength"/></xsl:attribute></xsl:if>
        <xsl:if test="@pattern"><xsl:attribute name="title"><xsl:value-of select="concat('Has to match ', @pattern)"/></xsl:attribute></xsl:if>
      </xsl:otherwise>
    </xsl:choose>
  </xsl:template>

  <!-- One of some values, any number of times: a box each. -->
  <xsl:template match="s:parameter[s:option]" mode="inputs">
    <xsl:variable name="parameter" select="."/>
    <div class="choices">
      <xsl:for-each select="s:option">
        <label>
          <input type="checkbox" name="{$parameter/@name}" value="{.}">
            <xsl:if test="$parameter/s:value = ."><xsl:attribute name="checked">checked</xsl:attribute></xsl:if>
          </input>
          <xsl:value-of select="concat(' ', .)"/>
        </label>
      </xsl:for-each>
    </div>
  </xsl:template>

  <!-- A file, or one that is here already: of an earlier job, or of an example. -->
  <xsl:template match="s:parameter[@type = 'file']" mode="inputs">
    <xsl:variable name="parameter" select="."/>
    <div class="choices">
      <xsl:for-each select="s:file">
        <label>
          <input type="checkbox" name="UPLOAD" value="{$parameter/@name},{@href}" checked="checked"/>
          <xsl:value-of select="concat(' ', @name, ', which is here already')"/>
        </label>
      </xsl:for-each>
    </div>
    <label for="f-{@name}">Another file</label>
    <input type="file" id="f-{@name}" name="{@name}">
      <xsl:if test="@multiple"><xsl:attribute name="multiple">multiple</xsl:attribute></xsl:if>
    </input>
  </xsl:template>

  <!-- Any number of values: what there is, and two more. -->
  <xsl:template match="s:parameter" mode="inputs">
    <xsl:variable name="parameter" select="."/>
    <div class="several" data-several="{@name}">
      <xsl:for-each select="s:value">
        <xsl:variable name="value" select="string(.)"/>
        <xsl:variable name="label" select="concat($parameter/@name, ', value ', position())"/>
        <xsl:for-each select="$parameter">
          <xsl:call-template name="text">
            <xsl:with-param name="value" select="$value"/>
            <xsl:with-param name="label" select="$label"/>
          </xsl:call-template>
        </xsl:for-each>
      </xsl:for-each>
      <xsl:call-template name="text">
        <xsl:with-param name="value" select="''"/>
        <xsl:with-param name="label" select="concat(@name, ', another value')"/>
      </xsl:call-template>
      <xsl:call-template name="text">
        <xsl:with-param name="value" select="''"/>
        <xsl:with-param name="label" select="concat(@name, ', one more value')"/>
      </xsl:call-template>
    </div>
  </xsl:template>

</xsl:stylesheet>
